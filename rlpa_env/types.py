"""The frozen records that everything else speaks. No behaviour beyond what follows from their fields."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from rlpa_env.errors import ConfigError

CRITERIA = ("naturalness", "relevance", "logic", "engagement", "informativeness")
"""The five verdicts of the response reward, in the paper's order (N, R, L, G, F)."""


def _read_only(own: dict[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType(own)


copyreg.pickle(MappingProxyType, lambda own: (_read_only, (dict(own),)))  # so that records and environments can be copied and sent

NO_TEXT: Mapping[str, str] = MappingProxyType({})
NO_SCORES: Mapping[str, float] = MappingProxyType({})


class Point(NamedTuple):
    """One information point of a profile: a slot and one of its values. ``slot=""`` means unnamed."""

    slot: str
    value: str


class Message(NamedTuple):
    """One utterance. ``role`` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


Dialogue = Sequence[Message]


Scored = tuple[tuple[tuple[int, int], ...], tuple[Point, ...], tuple[Point, ...]]
"""What a guess was scored on: hits as pairs (guess, truth), the truth of that turn, its part then revealed."""


class Snapshot(NamedTuple):
    """Everything that changes in an environment during an episode."""

    user: object
    random: Mapping[str, Any]
    values: Mapping[str, Any]


class StopReason(str, Enum):
    """Why an episode ended; the empty string while it runs."""

    RUNNING = ""
    USER_LEFT = "user_left"
    TURN_LIMIT = "turn_limit"
    FAILURE = "failure"
    CONTEXT = "context"  # the agent's is full; only who plays the agent can tell


@dataclass(frozen=True)
class Verdict:
    """A judge's opinion of one reply: five booleans, whose product is the response reward unless ``graded`` says another.

    Raises:
        ConfigError: ``graded`` is outside [0, 1].
    """

    naturalness: bool
    relevance: bool
    logic: bool
    engagement: bool
    informativeness: bool
    scores: Mapping[str, float] = field(default_factory=lambda: NO_SCORES)  # criterion -> [0, 1], behind the booleans
    reasons: Mapping[str, str] = field(default_factory=lambda: NO_TEXT)  # criterion -> why, in plain words
    graded: float | None = None  # what the reply is paid, in [0, 1], for instance by a reward model; None: 1 if it passed

    def __post_init__(self) -> None:
        """Check the grade."""
        if self.graded is not None and not 0 <= self.graded <= 1:
            raise ConfigError(f"Verdict graded: expected a number in [0, 1], or None; got {self.graded!r}.")

    @property
    def paid(self) -> float:
        """The response reward, in [0, 1].

        >>> Verdict(True, True, True, True, True).paid, Verdict(True, True, True, True, False, graded=0.4).paid
        (1.0, 0.4)
        """
        return float(self.passed) if self.graded is None else float(self.graded)

    @property
    def passed(self) -> bool:
        """True iff all five criteria hold (the paper's N·R·L·G·F).

        >>> Verdict(True, True, True, True, False).passed
        False
        """
        return self.naturalness and self.relevance and self.logic and self.engagement and self.informativeness
