"""An episode record -> turn by turn what was said, and what became of every guessed and every true point. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlpa_env.actions import parse_action
from rlpa_env.matching import LexicalMatcher, match_points
from rlpa_env.rewards import f1, unsupported
from rlpa_env.types import CRITERIA, Point

# Of a guessed point.
HIT = "hit"  # true, and it had been told
LUCKY = "lucky"  # true, and it had not been told
WRONG = "wrong"  # not true, though something said supports it
INVENTED = "invented"  # not true, and nothing said supports it
# Of a true point: HIT and LUCKY again, or
MISSED = "missed"  # told and not listed
UNTOLD = "untold"  # not told yet, not listed
UNKNOWN = "unknown"  # the record does not say
LONGEST_RAW = 4_000  # characters of a malformed completion that are kept

Texts = Sequence[str]


class Guess(NamedTuple):
    """A guessed point and what became of it."""

    slot: str
    value: str
    kind: str  # HIT, LUCKY, WRONG, INVENTED or UNKNOWN
    truth: int  # index of the true point that it hits; -1: none
    supported: bool  # whether something said supports it; those that are not are `profile/invented` of info


@dataclass(frozen=True)
class Turn:
    """One action and what it was scored."""

    user: str  # the message that it answers
    reply: str
    raw: str  # the completion as written, where it was malformed; else ""
    guesses: tuple[Guess, ...]
    truth: tuple[Point, ...]  # the true points at this turn
    states: tuple[str, ...]  # of each true point: HIT, LUCKY, MISSED, UNTOLD or UNKNOWN
    verdicts: tuple[bool, ...]  # the judge's five, in the order of CRITERIA
    figures: Mapping[str, Any]  # the record's own: rewards, F1, why verdicts failed, …


def turns_of(record: Mapping[str, Any]) -> list[Turn]:
    """The turns of an episode in the form of an evaluation's record.

    Hits and what had been told are read from the record. One that does not hold them (written by an earlier version) is
    matched by words; where that does not give the F1 recorded, and for all that was told, the kind is UNKNOWN.
    """
    truth = points_of(record["truth"])
    said: list[str] = []
    turns: list[Turn] = []
    for message in record["messages"]:
        if message["role"] == "user":
            said.append(message["content"])
        elif message["role"] == "assistant":
            turns.append(_turn(record["turns"][len(turns)], message["content"], said, truth))
    return turns


def last_words(record: Mapping[str, Any]) -> str:
    """What the user said after the last action; "" if a failure cut them short."""
    last = record["messages"][-1]
    return last["content"] if last["role"] == "user" else ""


def points_of(slots: Mapping[str, Any]) -> tuple[Point, ...]:
    """Slots -> points, in order.

    >>> points_of({"Age": "34", "Interests": ["chess", "tea"]})[1:]
    (Point(slot='Interests', value='chess'), Point(slot='Interests', value='tea'))
    """
    return tuple(Point(slot, value) for slot, values in slots.items() for value in ((values,) if isinstance(values, str) else values))


def _turn(figures: Mapping[str, Any], completion: str, said: Texts, truth: tuple[Point, ...]) -> Turn:
    action = parse_action(completion)
    if "points" in figures:
        truth = tuple(Point(slot, value) for slot, value in figures["points"])
    pairs, told = _scored(figures, action.profile, truth)
    return Turn(
        user=said[-1] if said else "",
        reply=action.reply,
        raw=completion[:LONGEST_RAW] if action.error else "",
        guesses=_guesses(action.profile, pairs, told, said),
        truth=truth,
        states=_states(len(truth), pairs, told),
        verdicts=tuple(bool(figures[criterion]) for criterion in CRITERIA),
        figures=figures,
    )


def _scored(
    figures: Mapping[str, Any], guess: Sequence[Point], truth: Sequence[Point]
) -> tuple[dict[int, int] | None, set[int] | None]:
    """(guess -> truth of every hit, indices of true points told before the guess); None: the record does not say."""
    if "hits" in figures and "told" in figures:
        pairs = {int(g): int(t) for g, t in figures["hits"]}
        told = {int(t) for t in figures["told"]}
        if all(0 <= g < len(guess) for g in pairs) and all(0 <= t < len(truth) for t in told | set(pairs.values())):
            return pairs, told
    pairs = dict(match_points(LexicalMatcher(), guess, truth))
    agrees = abs(f1(len(pairs), len(guess), len(truth)) - figures["f1"]) < 1e-6
    return (pairs if agrees else None), None


def _guesses(guess: Sequence[Point], pairs: dict[int, int] | None, told: set[int] | None, said: Texts) -> tuple[Guess, ...]:
    if pairs is None:
        return tuple(Guess(*point, UNKNOWN, -1, True) for point in guess)
    grounded = {g for g, t in pairs.items() if told is None or t in told}
    bare = set(unsupported(guess, grounded, said))
    found = []
    for index, point in enumerate(guess):
        if index in pairs:
            kind = HIT if index in grounded else LUCKY
        else:
            kind = INVENTED if index in bare else WRONG
        found.append(Guess(*point, kind, pairs.get(index, -1), index not in bare))
    return tuple(found)


def _states(count: int, pairs: dict[int, int] | None, told: set[int] | None) -> tuple[str, ...]:
    hit = set((pairs or {}).values())
    if told is None:
        return tuple(HIT if index in hit else UNKNOWN for index in range(count))
    return tuple(
        (HIT if index in told else LUCKY) if index in hit else (MISSED if index in told else UNTOLD) for index in range(count)
    )
