"""Whether a text tells a point of its speaker: what a language model wrote is checked by this.

One notion for two questions: what would count as told is a leak where it may not be told yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from rlpa_env.evidence import COMMON, said
from rlpa_env.hearing import split_questions
from rlpa_env.meaning import meaning
from rlpa_env.text import STOP_WORDS, normalise, sentences, stems
from rlpa_env.types import Point

IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_ONES, _TEENS = "two|three|four|five|six|seven|eight|nine", "ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
_NUMBER = re.compile(rf"\b(?:(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:[ -](?:one|{_ONES}))?|{_TEENS}|{_ONES})\b", re.I)
_CLAUSE = re.compile(  # borders after which its speaker, or a denial, begins anew: what stands before is read for itself
    r"(?:\s*[,;:\u2013\u2014]\s*|\s+(?=(?:and|but|so|because|though|while|since)\s))(?:(?:and|but|so|because|though|while|since|well|yes)\s+)*"
    r"(?=(?:\w+\s)?i\b|my\b|(?:never|not|no|hardly|\w+n't)\b)|(?<=\byou )(?:know|believe|imagine|guess)(?: that)?\s+(?=i\b|my\b)",
    re.I,
)
_ME = re.compile(r"(?:\w+\s)?(?:i|my)\b(?![^,]*\byou)", re.I)


class _Reading(NamedTuple):
    """Stems of what one sentence states; what it only asks is left out."""

    own: frozenset[str]  # of its speaker, now, and not denied
    denied: frozenset[str]  # of its speaker, with a negation
    stems: frozenset[str]  # of anybody
    normal: str  # the statements, normalised, a space at each end


def _in_digits(text: str) -> str:
    return _NUMBER.sub(lambda word: str(max(meaning(word.group()).numbers)), text)


def _statements(sentence: str) -> Iterator[str]:
    for clause in _CLAUSE.split(sentence):
        stated = split_questions((clause,))[1]
        if not stated and _ME.match(clause):  # "I'm a nurse, right?"
            stated = (clause.partition(",")[0].rstrip(" ?\uff1f"),)
        yield from stated


@lru_cache(maxsize=16_384)
def _read(sentence: str) -> _Reading:
    stated = [said(clause) for clause in _statements(_in_digits(sentence))]
    own, denied, there = (frozenset().union(*(getattr(part, name) for part in stated)) for name in ("own", "denied", "stems"))
    return _Reading(own, denied, there, f" {' '.join(normalise(part.text) for part in stated)} ")


def _enough(found: frozenset[str], wanted: frozenset[str]) -> bool:
    """All of up to two words and all numbers; of more words two thirds, not all of which any conversation contains."""
    if len(wanted) <= 2:
        return bool(wanted) and found == wanted
    return 3 * len(found) >= 2 * len(wanted) and not found <= COMMON and not any(word.isdigit() for word in wanted - found)


def names(text: str, value: str) -> bool:
    """Whether the words of a value stand in a text, whoever they are said of.

    >>> names("My brother turned thirty-four.", "34"), names("Start the party!", "art")
    (True, False)
    """
    if IDEOGRAPH.search(value):  # no spaces, so no words to compare
        return normalise(value) in normalise(text)
    wanted = stems(_in_digits(value))
    return _enough(wanted & stems(_in_digits(text)), wanted) or f" {normalise(value)} " in f" {normalise(text)} "


def tells(text: str, point: Point, lines: tuple[str, ...] = ()) -> bool:
    """Whether a text states a point of its speaker, as it is, and does not only ask for it.

    Args:
        lines: wordings that tell the point, however they read: "I can't stand slow walkers" for a pet peeve. Where more
            than one of them reads like a denial, a memory or a dream, any other sentence that does so tells it too.

    >>> job = Point("Occupation", "baker")
    >>> tells("I'm a baker, can you believe it?", job), tells("My brother is a baker.", job), tells("I'm not a baker.", job)
    (True, False, False)
    """
    sought = _sought(point)
    if sought.ideographs:
        return sought.normal in normalise(text)
    normal = f" {normalise(text)} "
    if any(line in normal for line in _normal_lines(lines)):
        return True
    near = [reading for sentence in sentences(text) if _touches(reading := _read(sentence), sought)]
    return any(_states(reading, sought) for reading in near) or (bool(near) and not sought.common and _reads_otherwise(point, lines))


class _Sought(NamedTuple):
    """What is the same in every look for a point: a model's message is searched for thirty of them."""

    ideographs: bool  # no spaces, so no words to compare
    normal: str
    stems: frozenset[str]
    slot: frozenset[str]  # stems of its name
    common: bool  # its words prove nothing alone
    bare: bool  # they mean nothing without the slot
    denied: frozenset[str]  # of its stems, those that the value itself denies
    of_anyone: bool  # it is about others or another time itself, so it need not be said of the speaker


@lru_cache(maxsize=16_384)
def _sought(point: Point) -> _Sought:
    value, wanted = _read(point.value), stems(_in_digits(point.value))
    return _Sought(
        ideographs=bool(IDEOGRAPH.search(point.value)),
        normal=normalise(point.value),
        stems=wanted,
        slot=stems(point.slot),
        common=wanted <= COMMON,
        bare=STOP_WORDS.issuperset(normalise(point.value).split()),
        denied=value.denied - value.own,
        of_anyone=bool(meaning(point.value).named) or not (value.own or value.denied),
    )


@lru_cache(maxsize=16_384)
def _normal_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f" {normalise(line)} " for line in lines)


@lru_cache(maxsize=16_384)
def _reads_otherwise(point: Point, lines: tuple[str, ...]) -> bool:
    return sum(not any(_states(_read(sentence), _sought(point)) for sentence in sentences(line)) for line in lines) > 1


def _touches(sentence: _Reading, sought: _Sought) -> bool:
    """Whether a sentence has the words, whoever it says them of: what has not, states nothing, and most have not."""
    return sought.common or _enough(sought.stems & sentence.stems, sought.stems)


def _states(sentence: _Reading, sought: _Sought) -> bool:
    if sought.common:  # as they stand, and beside its slot if they mean nothing without it
        beside = bool(sought.slot) and sought.slot <= sentence.stems
        return f" {sought.normal} " in sentence.normal and (beside or not sought.bare)
    known = sentence.own | (sentence.stems - sentence.denied) if sought.of_anyone else sentence.own
    return _enough((sought.stems - sought.denied) & known | sought.denied & sentence.denied, sought.stems)
