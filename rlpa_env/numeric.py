"""Numeric views of the dialogue for classic RL: moves instead of words, or one token a step.

Both pass stable-baselines3's ``check_env``. Neither sees more than an agent does: the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlpa_env import attentive, replies
from rlpa_env.actions import format_action, parse_action
from rlpa_env.errors import ConfigError
from rlpa_env.profiles import VANILLA_SLOTS
from rlpa_env.text import normalise, sentences, words
from rlpa_env.types import Point

Step = tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]

OPENERS = ("nothing", "greeting", "pick up the newest words", "react to a new point", "answer", "suggest", "small talk")
ASKS = ("nothing", "a follow-up", *VANILLA_SLOTS)
EDITS = ("keep", "add what was just told", "list everything told", "drop the newest point")
_MANY = 5.0  # counts are divided by it and cut at 1


class DialogueActs(gym.Wrapper):
    """A move a turn: how the reply opens, what it asks, what happens to the profile; templates word it.

    Action: MultiDiscrete([opener, question, edit]), the meanings in `OPENERS`, `ASKS`, `EDITS`; with ``flat`` their
    product as one Discrete, for algorithms such as DQN. Observation: Box(0, 1), `FEATURES` in this order.

    Args:
        env: an RLPA environment with text actions.
        flat: one Discrete action instead of three.
    """

    FEATURES = (
        "turn", "asked for an idea", "asked something", "told something new", "words in the message", "points listed",
        "points told", "questions asked so far", "the newest question was asked before",
        *(f"told: {slot}" for slot in VANILLA_SLOTS), *(f"asked: {slot}" for slot in VANILLA_SLOTS),
    )  # fmt: skip

    def __init__(self, env: gym.Env, flat: bool = False) -> None:
        super().__init__(env)
        self.flat = flat
        self._shape = (len(OPENERS), len(ASKS), len(EDITS))
        self.action_space = spaces.Discrete(int(np.prod(self._shape))) if flat else spaces.MultiDiscrete(list(self._shape))
        self.observation_space = spaces.Box(0.0, 1.0, (len(self.FEATURES),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dialogue with an empty profile."""
        _, info = self.env.reset(seed=seed, options=options)
        self._messages = list(info["messages"])
        self._listed: dict[tuple[str, str], Point] = {}
        self._asked: list[int] = []
        return self._observation(), info

    def step(self, action: Any) -> Step:
        """Word the move and say it."""
        if not self.action_space.contains(action):
            raise ConfigError(f"DialogueActs: expected an action in {self.action_space}; got {action!r}.")
        opener, ask, edit = (int(i) for i in (np.unravel_index(int(action), self._shape) if self.flat else action))
        listed = self._edited(edit)
        completion = format_action(listed.values(), self._reply(opener, ask))
        _, reward, terminated, truncated, info = self.env.step(completion)
        self._listed = listed  # not before: a step that raises did not happen
        self._asked.append(ask)
        self._messages = list(info["messages"])
        return self._observation(), reward, terminated, truncated, info

    def _new(self) -> tuple[Point, ...]:
        return attentive.read(self._messages[-1]["content"]) if self._messages[-1]["role"] == "user" else ()

    def _edited(self, edit: int) -> dict[tuple[str, str], Point]:
        told = {1: self._new(), 2: attentive.listed(self._messages)}.get(edit, ())
        listed = self._listed | {(point.slot, normalise(point.value)): point for point in told}
        if edit == 3 and listed:
            listed.popitem()
        return listed

    def _reply(self, opener: int, ask: int) -> str:
        last, new = self._messages[-1]["content"], self._new()
        key = f"{len(self._messages)} {last}"
        said = frozenset(
            line for m in self._messages if m["role"] == "assistant" for line in sentences(parse_action(m["content"]).reply)
        )
        known = attentive.listed(self._messages)
        offer = known[len(self._messages) % len(known)] if known else Point("Interests", "a walk and a warm drink")
        lines = replies.lines()
        first = (
            "",
            replies.nth(lines["hello"], key, said),
            replies.pick_up(last, key),
            replies.reaction_to(new[0], key) if new else replies.pick_up(last, key),
            replies.nth(lines["answer"], key, said),
            replies.suggestion(offer, key),
            replies.nth(lines["small"], key, said),
        )[opener]
        if ask == 0:
            return first
        about = new[0].value if new else replies.key_words(last)
        question = replies.follow_up(about or "that", key, said) if ask == 1 else replies.question_for(ASKS[ask], key, said)
        return f"{first} {question}".strip()

    def _observation(self) -> np.ndarray:
        last = self._messages[-1]["content"]
        known, new = attentive.listed(self._messages), self._new()
        request, question = attentive.wants(last)
        turn = len(self._asked)
        limit = getattr(self.env.unwrapped, "max_turns", None) or 10
        again = bool(self._asked) and self._asked[-1] > 1 and self._asked[-1] in self._asked[:-1]
        told = [sum(point.slot == slot for point in known) for slot in VANILLA_SLOTS]
        asked = [self._asked.count(index + 2) for index in range(len(VANILLA_SLOTS))]
        counts = [len(words(last)) / 4, len(self._listed), len(known), sum(ask > 0 for ask in self._asked)]
        features = [turn / limit, request, question, bool(new), *(count / _MANY / 2 for count in counts), again]
        features += [*(count / _MANY for count in told), *(count / _MANY for count in asked)]
        return np.clip(np.asarray(features, np.float32), 0.0, 1.0)


class ByteTokenizer:
    """Bytes as tokens: ids 0…255, and 256 ends an action. Needs no vocabulary."""

    vocab_size = 257
    eos_token_id = 256

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are no UTF-8 are replaced."""
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


class TokenLevel(gym.Wrapper):
    """A token a step. The dialogue goes on when the end token is chosen or the action is full; other rewards are 0.

    Action: Discrete(vocabulary). Observation: Box of the newest ``context`` token ids, padded on the left with the end
    token: the dialogue and the action begun. ``max_episode_steps`` of the wrapped environment goes on counting turns.

    Args:
        env: an RLPA environment with text actions.
        tokenizer: with ``encode``, ``decode``, ``vocab_size`` and ``eos_token_id``; bytes if not given.
        context: tokens of an observation.
        max_tokens: tokens of an action, after which it is sent as it is.
    """

    def __init__(self, env: gym.Env, tokenizer: Any = None, context: int = 512, max_tokens: int = 256) -> None:
        super().__init__(env)
        if context < 1 or max_tokens < 1:
            raise ConfigError(f"TokenLevel: expected context and max_tokens >= 1; got {context} and {max_tokens}.")
        self.tokenizer = tokenizer or ByteTokenizer()
        self.context, self.max_tokens = context, max_tokens
        self.size = max(int(self.tokenizer.vocab_size), int(self.tokenizer.eos_token_id) + 1)
        self.action_space = spaces.Discrete(self.size)
        self.observation_space = spaces.Box(0, self.size - 1, (context,), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a dialogue."""
        observation, self._info = self.env.reset(seed=seed, options=options)
        self._dialogue: list[int] = list(self.tokenizer.encode(observation))
        self._action: list[int] = []
        return self._observation(), dict(self._info)

    def step(self, action: Any) -> Step:
        """Append a token; at the end of the action the user answers."""
        token = int(action)
        if not 0 <= token < self.size:
            raise ConfigError(f"TokenLevel: expected a token in 0 … {self.size - 1}; got {action!r}.")
        ended = token == self.tokenizer.eos_token_id
        chosen = self._action if ended else [*self._action, token]
        if not ended and len(chosen) < self.max_tokens:
            self._action = chosen
            return self._observation(), 0.0, False, False, dict(self._info)
        observation, reward, terminated, truncated, self._info = self.env.step(self.tokenizer.decode(chosen))  # if it raises, nothing was chosen
        self._dialogue, self._action = list(self.tokenizer.encode(observation)), []
        return self._observation(), reward, terminated, truncated, dict(self._info)

    def _observation(self) -> np.ndarray:
        ids = (self._dialogue + self._action)[-self.context :]
        return np.asarray([self.tokenizer.eos_token_id] * (self.context - len(ids)) + ids, np.int64)
