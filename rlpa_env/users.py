"""Who the agent talks with: the protocol that every user simulator keeps, and the records it speaks in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rlpa_env.profiles import Profile
from rlpa_env.types import Dialogue, Point


@dataclass(frozen=True)
class UserTurn:
    """One message of a user with what an audit wants to know about it."""

    message: str
    left: bool = False  # out of patience: the dialogue is over
    told: tuple[Point, ...] = ()  # points told for the first time
    plainly: tuple[Point, ...] = ()  # points voiced with their value, newly or again
    distractors: tuple[Point, ...] = ()  # points mentioned that are not true of the user
    dislike: str = ""  # what the complaint was about
    request: str = ""  # topic of a request for an idea


class Part(NamedTuple):
    """One sentence that a user is about to say."""

    line: str
    mark: str = ""  # "plain" | "hint" | "withdraw" | "distractor" | "request" | "question" | "" for everything else
    what: Any = None  # the index of a fact, the distractor's point, or the topic of the request


@dataclass(frozen=True)
class Draft:
    """What a user has decided to say, before it is worded."""

    parts: tuple[Part, ...]
    dislike: str = ""
    left: bool = False

    @property
    def text(self) -> str:
        """The authored wording."""
        return " ".join(part.line for part in self.parts)


@runtime_checkable
class UserSimulator(Protocol):
    """Anything that can play the user. Implementations hold one dialogue at a time."""

    def reset(self, profile: Profile, rng: np.random.Generator) -> str:
        """Become this person and say the opening, which reveals nothing."""
        ...

    def reply(self, dialogue: Dialogue, reply: str) -> UserTurn:
        """Answer the agent's ``reply``; ``dialogue`` ends with the own message that it answers."""
        ...

    @property
    def profile(self) -> Profile:
        """The truth now (it changes in a shift)."""
        ...

    @property
    def revealed(self) -> tuple[Point, ...]:
        """Points of the truth that have been told so far, however voiced."""
        ...

    @property
    def patience(self) -> int:
        """Steps left before the user leaves."""
        ...

    def snapshot(self) -> object:
        """An immutable or private copy of everything that changes, random stream included."""
        ...

    def restore(self, state: object) -> None:
        """Go back to a snapshot, which stays usable."""
        ...
