"""The only bridge between text and tokens: ids and action mask are born together.

A dialogue is fed as ``opening(messages)``, then again and again ``a_k`` (sampled) and ``follow(a_k, user text)``; or, where
the context is rewritten between turns (`contexts`), as ``context(pieces)``, which joins the same pieces of sampled ids.
Sampled ids are never decoded and re-encoded, and the text of a user can never become a control token.
The pieces between the messages ("glue") are read off the tokenizer's own chat template once, at start-up.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlpa_agent.contexts import ContextKind, Pieces
from rlpa_env.actions import cut_block, instructions
from rlpa_env.errors import ConfigError

ENDS = ("<|im_end|>", "<|endoftext|>")
"""Tokens that end a turn wherever a tokenizer has them, beside its own end-of-sequence token."""

SYSTEM, FIRST, ANSWER, SECOND = "sysprobe", "probe one", "<profile>\n- A: b\n</profile>", "probe two"
"""Probe texts for reading the glue off a template; the answer has tags, because some templates rewrite them."""


@dataclass
class Transcript:
    """The token history of one dialogue. ``ids`` and ``mask`` grow together and are never edited."""

    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)  # True: sampled by the policy

    def context(self, ids: Iterable[int]) -> None:
        """Append tokens that the policy was fed."""
        ids = [int(i) for i in ids]
        self.ids += ids
        self.mask += [False] * len(ids)

    def action(self, ids: Iterable[int]) -> None:
        """Append tokens that the policy sampled, its end token included."""
        ids = [int(i) for i in ids]
        self.ids += ids
        self.mask += [True] * len(ids)


@dataclass(frozen=True)
class Glue:
    """Token ids that a template puts around messages."""

    before_system: tuple[int, ...]
    after_system: tuple[int, ...]  # ... up to the first user text
    before_user: tuple[int, ...]  # start of a dialogue without a system message
    header: tuple[int, ...]  # from the end of a user text to the first token of the answer
    between: tuple[int, ...]  # from the end token of an answer (included) to the next user text


class Chat:
    """Renders one chat template as ids; refuses templates for which a growing history is not append-only.

    ``system_prompt``: None keeps the system message of the dialogue, "" drops it, a text replaces it.
    ``max_user_tokens`` bounds each user message; longer ones are cut. ``kept`` says what contexts hold of the past.
    """

    def __init__(
        self,
        tokenizer: Any,
        system_prompt: str | None = None,
        max_user_tokens: int | None = None,
        kept: ContextKind | None = None,
    ) -> None:
        self.kept = kept or ContextKind()
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.max_user_tokens = max_user_tokens
        self.glue = _read_glue(tokenizer, with_system=system_prompt != "")
        self.end_id = self.glue.between[0]
        vocabulary = tokenizer.get_added_vocab()
        ends = {self.end_id, tokenizer.eos_token_id, *(vocabulary.get(token) for token in ENDS)}
        self.end_ids: tuple[int, ...] = tuple(sorted(i for i in ends if i is not None))
        # Any id but the end token pads: masks come from lengths, never from ids.
        pads = (tokenizer.pad_token_id, vocabulary.get("<|endoftext|>"), 0, 1)
        self.pad_id: int = next(i for i in pads if i is not None and i != self.end_id)
        # What stands for a character that the tokenizer does not know is no control token, unless it ends turns too.
        self._control = set(vocabulary.values()) - ({tokenizer.unk_token_id} - set(self.end_ids))
        spelled = sorted((token for token in vocabulary if len(token) > 1), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, spelled)) or r"(?!)")

    def opening(self, messages: Sequence[Any]) -> np.ndarray:
        """Ids of a dialogue that ends with a user message, up to and with the assistant header; see `begin`."""
        return self.context(self.begin(messages))

    def begin(self, messages: Sequence[Any]) -> Pieces:
        """The pieces of a dialogue that ends with a user message.

        Messages are ``{"role", "content"}`` mappings or (role, content) pairs. Assistant messages in it are
        encoded from their text, so use ``follow`` for answers that were sampled here.
        """
        turns = [_pair(message) for message in messages]
        system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
        system = system if self.system_prompt is None else self.system_prompt or None
        roles = [role for role, _ in turns]
        if (
            not roles
            or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]
            or len(roles) % 2 == 0
        ):
            raise ConfigError(
                "dialogue: expected [system,] user, (assistant, user)*, as the template alternates them; "
                f"got roles {roles}. Drop or merge the messages that break the alternation."
            )
        glue = self.glue
        pieces = Pieces(list(glue.before_user))
        if system is not None:
            pieces.head = [*glue.before_system, *self._encode(system), *glue.after_system]
        pieces.users.append(self.encode_user(turns[0][1]))
        for (_, answer), (_, said) in zip(turns[1::2], turns[2::2]):
            self.extend(pieces, [*self._encode(answer), self.end_id], said)
        return pieces

    def extend(self, pieces: Pieces, action_ids: Sequence[int], user_text: str) -> None:
        """Add an answer and what the user said to it."""
        pieces.answers.append([int(i) for i in action_ids])
        pieces.blocks.append(self.block_tokens(action_ids) if self.kept.kind != "append" else 0)
        pieces.users.append(self.encode_user(user_text))

    def context(self, pieces: Pieces) -> np.ndarray:
        """Ids fed for the next answer, assistant header included: what ``kept`` leaves of the pieces.

        Answers are their sampled ids, or those behind the profile block. A newest block that is older than the
        window opens the first answer in it.
        """
        answers, blocks, first = pieces.answers, pieces.blocks, 0
        if self.kept.kind != "append" and answers:
            newest = len(answers) - 1
            if self.kept.kind == "window":
                first = max(0, len(answers) - self.kept.window)
                newest = next((i for i in reversed(range(len(answers))) if blocks[i]), newest)
            block = answers[newest][: blocks[newest]]
            answers = [a if i == newest else a[blocks[i] :] for i, a in enumerate(answers)]
            if newest < first:
                answers[first] = [*block, *answers[first]]
        ids = [*pieces.head, *pieces.users[first], *self.glue.header]
        for answer, said in zip(answers[first:], pieces.users[first + 1 :]):
            ids += [*answer, *self._after(answer, said)]
        return np.asarray(ids, dtype=np.int64)

    def follow(self, action_ids: Sequence[int], user_text: str) -> np.ndarray:
        """Ids fed after a sampled answer: [forced end token], glue, user text, assistant header.

        The end token is forced unless it was sampled: after a turn cut by its length, and after another end
        token, which stays a sampled action and is never overwritten.
        """
        return np.asarray(self._after(action_ids, self.encode_user(user_text)), dtype=np.int64)

    def _after(self, action_ids: Sequence[int], said: Sequence[int]) -> list[int]:
        closed = len(action_ids) > 0 and int(action_ids[-1]) == self.end_id
        between = self.glue.between[1:] if closed else self.glue.between
        return [*between, *said, *self.glue.header]

    def encode_user(self, text: str) -> list[int]:
        """Ids of a user's text, in which the spelling of a control token is ordinary text."""
        return self._encode(text)[: self.max_user_tokens]

    def decode(self, action_ids: Sequence[int]) -> str:
        """Text of a sampled answer without its end token."""
        ids = [int(i) for i in action_ids]
        if ids and ids[-1] in self.end_ids:
            ids.pop()
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def prefix_where(self, action_ids: Sequence[int], passes: Callable[[str], bool]) -> int:
        """Number of leading ids whose text is the first to pass a test that every longer text passes too; 0: none does."""
        if not passes(self.decode(action_ids)):
            return 0
        return 1 + bisect_left(range(1, len(action_ids)), True, key=lambda n: passes(self.decode(action_ids[:n])))

    def block_tokens(self, action_ids: Sequence[int]) -> int:
        """Number of leading ids that are the profile block of an answer; 0 without one.

        Where the token that completes the block also begins the reply, it stays with the reply: no word of it is lost.
        """
        count = self.block_end(action_ids)
        block = cut_block(self.decode(action_ids[:count]))
        return count - bool(block.rest.strip()) if block.closed else 0

    def block_end(self, action_ids: Sequence[int]) -> int:
        """Number of leading ids with which the guess ends, be it closed or cut off by another tag; all of them where no tag ends it."""
        return self.prefix_where(action_ids, lambda text: bool(cut_block(text).tag)) or len(action_ids)

    def state_limit(self, turns: int) -> None:
        """Make a system prompt that is the environment's instructions state this turn limit; any other stays as it is."""
        stated = re.search(r"for (\d{1,9}) turns", self.system_prompt or "")
        if stated and self.system_prompt == instructions(int(stated[1])):
            self.system_prompt = instructions(turns)

    def banned_ids(self, vocab_size: int) -> np.ndarray:
        """Ids that are never sampled: added tokens other than ends, and rows of the embedding without a token."""
        banned = set(self.tokenizer.get_added_vocab().values()) | set(self.tokenizer.all_special_ids)
        banned |= set(range(len(self.tokenizer), vocab_size))
        return np.asarray(sorted(i for i in banned - set(self.end_ids) if i < vocab_size), dtype=np.int64)

    def glue_tokens(self) -> int:
        """Tokens fed per turn beside the user's text, at most."""
        return len(self.glue.between) + len(self.glue.header)

    def has_room(self, context: int, limit: int, max_new_tokens: int) -> bool:
        """Whether a whole turn, its end token and the next header fit behind ``context`` tokens, of ``limit``."""
        return context + max_new_tokens + self.glue_tokens() <= limit

    def check_fits(self, context_limit: int, *, turns: int, max_new_tokens: int, system: str = "") -> None:
        """Raise unless the longest possible dialogue of ``turns`` turns, or what ``kept`` leaves of it, fits ``context_limit`` tokens."""
        if self.max_user_tokens is None:
            raise ConfigError(
                "max_user_tokens: expected a number, so that the longest dialogue is known; got None. "
                "Build the Chat with max_user_tokens=..., e.g. 96."
            )
        system_text = self.system_prompt if self.system_prompt is not None else system
        head = len(self._encode(system_text)) + len(self.glue.before_system) + len(self.glue.after_system)
        opening = head + len(self.glue.before_user) + self.max_user_tokens + len(self.glue.header)
        held = self.kept.turns(turns)
        block = max_new_tokens if held < turns else 0  # of an answer before the window, all of which may be its profile
        needed = opening + block + held * (max_new_tokens + self.max_user_tokens + self.glue_tokens())
        if needed > context_limit:
            raise ConfigError(
                f"context: expected room for {opening} prompt tokens + {held} turns x ({max_new_tokens} new + "
                f"{self.max_user_tokens} user + {self.glue_tokens()} glue){f' + an older profile of {block}' if block else ''} = {needed} tokens; the model has "
                f"{context_limit}. Lower max_new_tokens, max_user_tokens or the turn limit, or use another model."
            )

    def _encode(self, text: str) -> list[int]:
        """Ids of a text, none of them of an added token.

        ``split_special_tokens`` sees to the special ones only. The spelling of another is encoded in two parts, cut behind
        its first character; a single character whose only id is an added token's has no ordinary one, and is left out.
        """
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if self._control.isdisjoint(ids):
            return ids
        if len(text) == 1:
            return []
        # One that is found in a normalised text only, or is a single character, is closed in on by halves.
        cuts = [found.start() + 1 for found in self._spelled.finditer(text)] or [len(text) // 2]
        return [i for start, end in zip([0, *cuts], [*cuts, len(text)]) for i in self._encode(text[start:end])]


def _pair(message: Any) -> tuple[str, str]:
    if isinstance(message, Mapping):
        return message["role"], message["content"]
    role, content = message
    return role, content


_DATE = "26 Jul 2024"  # for templates that tell a model the date (Llama 3 has this one at hand): the prompt would be another every day


def _render(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> str:
    conversation = [{"role": role, "content": text} for role, text in messages]
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, date_string=_DATE)
    except Exception as error:  # templates raise jinja errors, and ValueError when there is no template
        raise ConfigError(
            f"chat template: expected one that renders the roles {[role for role, _ in messages]}; it said "
            f"{error!r}. Use a tokenizer with a chat template, or system_prompt='' if it knows no system role."
        ) from error


def _split(text: str, probes: Sequence[str]) -> list[str]:
    """The pieces of a rendering around the probe texts, in order."""
    pieces = []
    for probe in probes:
        if text.count(probe) != 1:
            raise ConfigError(
                f"chat template: expected each message exactly once and verbatim; {probe!r} occurs "
                f"{text.count(probe)} times in {text!r}. A template that rewrites messages cannot be used here."
            )
        piece, text = text.split(probe)
        pieces.append(piece)
    return [*pieces, text]


def _read_glue(tokenizer: Any, *, with_system: bool) -> Glue:
    """Read the pieces around messages off the template, checking that a longer history only appends."""
    template = str(tokenizer.chat_template)
    if "strftime_now" in template and "date_string" not in template:
        warnings.warn("chat template: expected the same prompt every day; it tells the date of today. Write a fixed one into it.", stacklevel=2)
    user, dialogue = [("user", FIRST)], [("user", FIRST), ("assistant", ANSWER), ("user", SECOND)]
    once, thrice = _render(tokenizer, user), _render(tokenizer, dialogue)
    if not thrice.startswith(once + ANSWER):
        raise ConfigError(
            "chat template: expected a prefix-stable one (the rendering of user, assistant, user begins with that "
            f"of user, then the answer); got {once!r} and then {thrice!r}. Token histories cannot grow under it."
        )
    before_user, header, between, tail = _split(thrice, [FIRST, ANSWER, SECOND])
    if tail != header:
        raise ConfigError(
            f"chat template: expected the same assistant header at every turn; got {header!r}, then {tail!r}."
        )
    pieces = {"before_user": before_user, "header": header, "between": between}
    if with_system:
        parts = _split(_render(tokenizer, [("system", SYSTEM), *dialogue]), [SYSTEM, FIRST, ANSWER, SECOND])
        if parts[2:] != [header, between, tail]:
            raise ConfigError(
                f"chat template: expected a system message to change only the start; got {parts[2:]} after it, "
                f"{[header, between, tail]} without it. Use system_prompt=''."
            )
        pieces |= {"before_system": parts[0], "after_system": parts[1]}
    ids = {name: tuple(tokenizer.encode(text, add_special_tokens=False)) for name, text in pieces.items()}
    glue = Glue(**({"before_system": (), "after_system": ()} | ids))
    _check_pieces(tokenizer, glue, thrice)
    return glue


def _check_pieces(tokenizer: Any, glue: Glue, rendered: str) -> None:
    """Raise unless encoding piece by piece gives the encoding of the whole rendering."""
    if not glue.between or not glue.header:
        raise ConfigError("chat template: expected tokens between the messages; got none")
    if glue.between[0] not in tokenizer.get_added_vocab().values():
        token = tokenizer.convert_ids_to_tokens(glue.between[0])
        raise ConfigError(
            f"chat template: expected a control token at the end of an answer; got {token!r}, which is ordinary text"
        )
    first, answer, second = (
        tokenizer.encode(text, add_special_tokens=False) for text in (FIRST, ANSWER, SECOND)
    )
    pieces = [*glue.before_user, *first, *glue.header, *answer, *glue.between, *second, *glue.header]
    whole = tokenizer.encode(rendered, add_special_tokens=False)
    if pieces != whole:
        raise ConfigError(
            "tokenizer: expected messages to encode the same alone and inside the template; got "
            f"{tokenizer.convert_ids_to_tokens(pieces)} and {tokenizer.convert_ids_to_tokens(whole)}"
        )
