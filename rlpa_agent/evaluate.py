"""A policy as an agent of ``rlpa_env``: it answers chat messages, one dialogue or many at once.

It recognises a dialogue that it has answered before by its messages, and goes on from the ids it sampled then, with
the same keys and values in its cache. So an evaluated policy sees exactly what it saw in training. What is new to it but begins
as something in the cache does, as a prompted dialogue whose newest message had a note added to it, is read from there on.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlpa_agent.chat import Chat
from rlpa_agent.contexts import Pieces, read_context
from rlpa_agent.generation import Decoder, Sampler, decoder
from rlpa_agent.loading import flush_denormals
from rlpa_agent.policy import Policy
from rlpa_env.errors import ConfigError, ContextError

REMEMBERED = 4096
"""Dialogues whose sampled ids are kept; an older one that comes back is encoded from its text."""

MAX_NEW_TOKENS = 160
"""Of an answer, where no run says otherwise."""

History = tuple[tuple[str, str], ...]


@dataclass(eq=False)
class _Dialogue:
    """What is known of one dialogue between two calls."""

    stream: int  # names its random numbers
    pieces: Pieces
    ids: list[int] = field(default_factory=list)  # what is fed for the next answer, then with it
    action: list[int] = field(default_factory=list)  # the newest answer
    cached: int = 0  # leading ids whose keys and values are in the cache


class PolicyAgent:
    """Implements ``act`` and ``act_batch`` of the Agent protocol.

    A dialogue samples from the stream (seed, i), as ``rollout.collect`` does with ``sample_seed=seed``: i is what the caller names it by, else the
    order of its first appearance. ``temperature`` defaults to the policy's; 0 is greedy. No answer is cut by the context: where it has no
    room for a whole one, there is a ContextError instead, where a rollout ends a dialogue too.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        temperature: float | None = None,
        seed: int = 0,
        max_new_tokens: int = MAX_NEW_TOKENS,
        chat: Chat | None = None,
    ) -> None:
        self.policy, self.chat, self.seed = policy, chat or policy.chat, seed
        self.temperature = policy.temperature if temperature is None else temperature
        self.max_new_tokens = max_new_tokens
        self._known: OrderedDict[History, list[_Dialogue]] = OrderedDict()
        self._started = 0
        self._rows: list[_Dialogue] = []  # owners of the leading rows of the cache
        self._cache: Decoder | None = None
        self._sampler: Sampler | None = None
        self._weights: tuple[float, ...] = ()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells it from other policies in an evaluation's records: all weights, how they are asked, and the seed if it samples."""
        weights = hashlib.blake2b(digest_size=6)
        for name, tensor in self.policy.lm.named_parameters():
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        asked = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens, "context": str(self.chat.kept)} | ({"seed": self.seed} if self.temperature else {})
        return {"weights": weights.hexdigest(), **asked, "system_prompt": self.chat.system_prompt}

    def act(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The policy's completion for a dialogue that ends with a user message. Raises ContextError where none has room."""
        answer = self.act_batch([messages])[0]
        if isinstance(answer, ContextError):
            raise answer
        return answer

    def act_batch(self, batch: Sequence[Sequence[Mapping[str, str]]], streams: Sequence[int] | None = None) -> list[str | ContextError]:
        """Completions for several dialogues, decoded together; a ContextError in the place of one that has no room.

        ``streams`` names the dialogues, so that what each samples does not hang on which others there are.
        """
        histories = [
            tuple((message["role"], message["content"]) for message in messages) for messages in batch
        ]
        dialogues = [self._resume(history) for history in histories]
        for dialogue, stream in zip(dialogues, streams or ()):  # of those with equal messages each may have been another's
            dialogue.stream = stream
        able = {i: dialogue for i, dialogue in enumerate(dialogues) if self.chat.has_room(len(dialogue.ids), self._limit, self.max_new_tokens)}
        if able:
            self._seat(list(able.values()))
            self._decode(list(able.values()), [sum(role == "assistant" for role, _ in histories[i]) for i in able])
        texts: list[str | ContextError] = []
        for i, (history, dialogue) in enumerate(zip(histories, dialogues)):
            if i not in able:
                texts.append(self._full(dialogue))
                continue
            text = self.chat.decode(dialogue.action)
            texts.append(text)
            self._known.setdefault((*history, ("assistant", text)), []).append(dialogue)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return texts

    @property
    def _limit(self) -> int:
        return self.policy.context_limit

    def _full(self, dialogue: _Dialogue) -> ContextError:
        wanted = f"room for {len(dialogue.ids)} tokens of a dialogue and an answer of {self.max_new_tokens}"
        return ContextError(f"context: expected {wanted}; the model has {self._limit}. Lower max_new_tokens, or shorten the system prompt.")

    def count_tokens(self, text: str) -> int:
        """Tokens of a completion."""
        return len(self.policy.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _resume(self, history: History) -> _Dialogue:
        """The dialogue that a history continues, with the new user text appended; else a new one."""
        waiting = self._known.get(history[:-1], [])
        if waiting:
            # Dialogues with equal messages are told apart by their order, which callers keep.
            dialogue = waiting.pop(0)
            if not waiting:
                del self._known[history[:-1]]
            self.chat.extend(dialogue.pieces, dialogue.action, history[-1][1])
            ids = self.chat.context(dialogue.pieces).tolist()
            if ids[: len(dialogue.ids)] != dialogue.ids:  # rewritten: read anew from where it differs
                dialogue.cached = min(dialogue.cached, _common(dialogue.ids, ids), len(ids) - 1)
            dialogue.ids = ids
            return dialogue
        pieces = self.chat.begin(history)
        dialogue = _Dialogue(self._started, pieces, self.chat.context(pieces).tolist())
        self._started += 1
        return dialogue

    def _seat(self, dialogues: list[_Dialogue]) -> None:
        """Give each dialogue a row of the cache; rows of dialogues that are not in this call are taken over or freed."""
        weights = _fingerprint(self.policy.lm)
        if self._cache is None or weights != self._weights or len(dialogues) >= len(self._cache.lengths_R):
            lm, dtype = self.policy.lm, self.policy.rollout_dtype
            rows = len(dialogues) + 1  # the last is where two rows change places
            self._cache = decoder(lm, rows, self._limit, dtype)
            self._sampler = Sampler(lm, self.policy.banned_V, rows, self.temperature, dtype)
            self._rows, self._weights = [], weights
        seated = set(map(id, self._rows))
        new = [dialogue for dialogue in dialogues if id(dialogue) not in seated]
        present = set(map(id, dialogues))
        left = [row for row, owner in enumerate(self._rows) if id(owner) not in present]
        for dialogue in new:
            dialogue.cached = 0
            if left:  # the row that begins most as it does
                row = max(left, key=lambda row: self._shared(row, dialogue))
                dialogue.cached = self._shared(row, dialogue)
                left.remove(row)
                self._rows[row] = dialogue
        for row in reversed(left):
            last = self._rows.pop()
            if row < len(self._rows):
                self._cache.move(len(self._rows), row)
                self._rows[row] = last
        seated = set(map(id, self._rows))
        fresh = [dialogue for dialogue in new if id(dialogue) not in seated]
        self._rows += fresh
        for row, dialogue in enumerate(self._rows):
            if dialogue.cached < int(self._cache.lengths_R[row]):
                self._cache.clear(row, dialogue.cached)
        self._read_once(fresh)

    def _shared(self, row: int, dialogue: _Dialogue) -> int:
        """Positions of a row that a dialogue can take over; its last id is always read, for what follows it."""
        owner = self._rows[row]
        return min(_common(owner.ids[: owner.cached], dialogue.ids), len(dialogue.ids) - 1)

    def _read_once(self, fresh: list[_Dialogue]) -> None:
        """What all new dialogues in the last rows begin with is read for the first of them, and copied."""
        assert self._cache is not None
        if len(fresh) < 2:
            return
        first = len(self._rows) - len(fresh)
        shared = min(_common(fresh[0].ids, other.ids[:-1]) for other in fresh[1:])
        if not 0 < shared < len(fresh[0].ids) or shared > self._cache.capacity:
            return
        self._cache.prefill([first], [np.asarray(fresh[0].ids[:shared], dtype=np.int64)])
        for row, dialogue in enumerate(fresh, first):
            dialogue.cached = shared
            if row > first:
                self._cache.move(first, row)

    def _decode(self, dialogues: list[_Dialogue], turns: list[int]) -> None:
        """One answer for every dialogue, into its ``action`` and ``ids``."""
        assert self._cache is not None
        assert self._sampler is not None
        cache, sampler = self._cache, self._sampler
        turn_of = dict(zip(map(id, dialogues), turns))
        for row, dialogue in enumerate(self._rows):
            dialogue.action = []
            sampler.restart(row, (self.seed, dialogue.stream, turn_of[id(dialogue)]))
        chunks = [np.asarray(dialogue.ids[dialogue.cached :], dtype=np.int64) for dialogue in self._rows]
        hidden_nH, live = cache.prefill(list(range(len(chunks))), chunks), [True] * len(chunks)
        while any(live):
            ids_n, _ = sampler.draw(hidden_nH, live)
            for row, token in enumerate(ids_n.tolist()):
                if live[row]:
                    dialogue = self._rows[row]
                    dialogue.action.append(token)
                    live[row] = token not in self.chat.end_ids and len(dialogue.action) < self.max_new_tokens
            # Rows whose answer is over are stepped to no purpose; to move them costs less than a step of an eighth of the rows.
            if 0 < sum(live) <= len(live) * 7 // 8:
                ids_n = ids_n[self._gather(live)]
                live = live[: len(ids_n)]
            if any(live):
                hidden_nH = cache.step(ids_n, torch.tensor(live))
        for row, dialogue in enumerate(self._rows):
            dialogue.ids += dialogue.action
            dialogue.cached = int(cache.lengths_R[row])

    def _gather(self, live: list[bool]) -> list[int]:
        """Exchange rows, in place, until those that are live lead; where each of these was."""
        was = list(range(len(live)))
        target, last = 0, len(live) - 1
        while target < last:
            if live[target]:
                target += 1
            elif not live[last]:
                last -= 1
            else:
                self._exchange(target, last)
                columns: tuple[list[Any], ...] = (live, was)
                for column in columns:
                    column[target], column[last] = column[last], column[target]
        return was[: sum(live)]

    def _exchange(self, a: int, b: int) -> None:
        assert self._cache is not None
        assert self._sampler is not None
        spare = len(self._cache.lengths_R) - 1
        for rows in (self._cache, self._sampler):
            for source, target in ((a, spare), (b, a), (spare, b)):
                rows.move(source, target)
        self._rows[a], self._rows[b] = self._rows[b], self._rows[a]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Leading ids that two lists share.

    >>> _common([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


@torch.no_grad()
def _fingerprint(lm: Any) -> tuple[float, ...]:
    """Changes with the weights. Version counters would not do: fused optimizers leave them as they are."""
    return tuple(torch.stack([tensor.flatten()[:256].float().sum() for tensor in lm.parameters()]).cpu().tolist())


def policy_agent(path: Any, *, dtype: str | None = None, max_new_tokens: int | None = None, **options: Any) -> PolicyAgent:
    """The agent in a policy folder or Hugging Face model; ``dtype`` of all weights; options go to ``PolicyAgent``.

    User messages and, by default, answers are cut where the run that left the folder cut them.
    """
    flush_denormals()
    chosen, limits = None if dtype is None else getattr(torch, dtype), _limits(path)
    policy = Policy.from_pretrained(path, dtype=chosen, device="auto", reference=False, max_user_tokens=limits.get("max_user_tokens"))
    policy.chat.kept = read_context(path)
    longest = limits.get("max_new_tokens", MAX_NEW_TOKENS) if max_new_tokens is None else max_new_tokens
    return PolicyAgent(policy, max_new_tokens=longest, **options)


def _limits(path: Any) -> dict[str, int]:
    """``max_new_tokens`` and ``max_user_tokens`` of the run RUN behind a folder RUN/best/policy; {} for other models."""
    folder = Path(path).resolve()
    if folder.name != "policy":
        return {}
    for file, place in (("config.json", ("rollout",)), ("baseline.json", ("config", "data"))):
        source = folder.parents[1] / file
        if not source.is_file():
            continue
        try:
            found = json.loads(source.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{source}: expected the settings of a run, as JSON; {error}.") from error
        for name in place:
            found = found.get(name, {})
        return {name: found[name] for name in ("max_new_tokens", "max_user_tokens") if name in found}
    return {}
