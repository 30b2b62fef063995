"""Reads a user's messages as a stranger would: which facts they state of themselves, which of somebody else.

It shares nothing with the simulator's bookkeeping and none of its text rules: own sentence splitter, own patterns, and
as knowledge only the list of values and how they are voiced (``rlpa_env/data/world``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

from rlpa_env import Point, Profile

_ENDS = re.compile(r"(?<=[.!?])(?<!\.\.\.)[\"')]*\s+(?=[\"'(]*[A-Z0-9])|(?<=[。！？])")
_WORDS = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_SOMEBODY = (
    r"(?:neighbours?|neighbors?|friends?|cousins?|colleagues?|boss|landlord(?:'s son)?|schoolmate|somebody|someone|people|they|he|she|everybody|"
    r"everyone|uncle|aunt|my (?:\w+ )?(?:mother|father|sister|brother|son|daughter|mum|mom|dad|wife|husband))"
)
_OTHERS = re.compile(rf"^(?:\S+\s+){{0,4}}?{_SOMEBODY}\b", re.IGNORECASE)  # among the first five words
_OF_ME = re.compile(r"(?<!told )(?<!telling )(?<!tells )\bme\b|\b(?:people|they|everyone) forget\b|\bi've\b|\bother people's\b", re.IGNORECASE)
_FIRST = re.compile(r"\b(?:i|me|myself)\b", re.IGNORECASE)
_NOT_TRUE = re.compile(
    r"\bused to\b|\b(?:years|ages|long) ago\b|\bonce\b|\bas a (?:kid|child)\b|\bwhen i was\b|\bi wish\b|\b(?:one|some) day\b|\bwould(?:n't)?\b|"
    r"\bi'd (?:be|love|like)\b|\bkidding\b|\bjoking\b|\bnot true\b|\bha, no\b|\bwrong(?:ly)?\b|\bmistake\b|\b(?:never|not) (?:again|now|any ?more|so|for me)\b|"
    r"\bgave up\b|\bnever (?:got|applied)\b|\bdream(?:t|ed|s)?\b|\bimagined\b|\benvied\b|\bnearly\b|\balmost\b|\bin films\b|\b(?:another|past) life\b|"
    r"\bassum\w+\b|\b(?:people|they) guess\b|\bt(?:ake|aking|ook) me for\b|\bhad me down\b|\bask anyone\b|\bfelt like\b|\bon stage\b|\bas if to\b|\bi was\b.*\b(?:summer|days)\b|"
    r"\boffered me\b|\bcard from\b|\bseemed\b|\bis a virtue\b|\bi was\b.*\bago\b|\bcame true\b|\bwas (?:you|different)\b|\bhadn't\b",
    re.IGNORECASE,
)
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
_NUMBERS = frozenset((*_SMALL, *_TENS))
_PHRASES = {  # what a sentence of this form says of its speaker: slot -> pattern with the value as its group
    "Age": r"\bi(?:'m| am)(?: already| now| just| only)? (?P<v>\d{2})\b(?! (?:minutes|days|hours|km|miles|per))|\bi (?:just )?turned (?P<w>\d{2})\b|\b(?P<x>\d{2}) years old\b",
    "Occupation": r"\bi(?:'m| am) an? (?!sucker|fan\b|lover|believer|beginner|member|stranger)(?P<v>[a-z]+(?: [a-z]+)?(?:er|or|ist|ian|ant|man|woman|nurse|chef|pilot|cook|clerk|smith|wright))\b|\bi work as an? (?P<w>[a-z -]+)",
    "Location": r"\b[Ii](?: live| stay| reside|'m based| am based) (?:in|near) (?P<v>[A-Z]\w+(?: [A-Z]\w+)?)|\b[Ii](?:'m| am) from (?P<w>[A-Z]\w+(?: [A-Z]\w+)?)",
    "Marital Status": r"\bi(?:'m| am) (?P<w>single|married|divorced|widowed|engaged|separated)\b",
    "Family Background": r"\bi(?:'m| am) an (?P<w>only child)\b",
    "Education Background": r"\bi (?:studied|graduated in|majored in) (?P<v>[a-z]+)|\bi have an? (?P<w>[a-z']+(?: [a-z]+)? (?:degree|diploma|apprenticeship|certificate))\b",
    "Gender": r"\bi(?:'m| am) an? (?P<v>man|woman)\b",
}
_CLAIMS = {slot: re.compile(pattern, re.IGNORECASE if slot != "Location" else 0) for slot, pattern in _PHRASES.items()}
_MY = {
    "Marital Status": re.compile(r"\bmy (?P<v>wife|husband|fianc[eé]e?|girlfriend|boyfriend)\b", re.IGNORECASE),
    "Family Background": re.compile(
        r"\bmy (?:little |older |younger |big |youngest |twin )?(?P<v>brothers?|sisters?|siblings|sons?|daughters?|kids|children)\b", re.IGNORECASE
    ),
}
_KIN = {"Marital Status": {"wife": "married", "husband": "married", "fiance": "engaged", "fiancee": "engaged"}}


class Reading(NamedTuple):
    """One message, read."""

    sentences: tuple[str, ...]
    told: frozenset[Point]  # points of the profile that it states of its speaker
    beyond: tuple[str, ...]  # what it states of its speaker that the profile does not hold
    of_others: int  # sentences with a fact of somebody else, the past, a wish, hearsay
    of_self: int  # sentences with a fact of the speaker


def sentences(text: str) -> tuple[str, ...]:
    """Split at a full stop that a capital follows, and at Chinese stops."""
    return tuple(filter(None, (part.strip() for part in _ENDS.split(text))))


@lru_cache(maxsize=65536)
def _key(text: str) -> tuple[str, ...]:
    return tuple(_WORDS.findall(text.lower().replace("’", "'")))


@lru_cache(maxsize=65536)
def _bare(word: str) -> str:
    """A word cut to what its inflections share."""
    return re.sub(r"(?:'s|ies|ing|ers?|es|ed|s|y|e)$", "", word)[:7] if len(word) > 4 else word


def holds(text: tuple[str, ...], value: tuple[str, ...]) -> bool:
    """Whether the words stand in the text, one after the other."""
    return bool(value) and any(text[i : i + len(value)] == value for i in range(len(text) - len(value) + 1))


@lru_cache(maxsize=1)
def values() -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(slot, value, its words) of everything anybody in the world can be."""
    found = []
    for path in sorted((files("rlpa_env") / "data" / "world").iterdir(), key=lambda path: path.name):
        data = json.loads(path.read_text(encoding="utf-8"))
        found += [(data["slot"], raw["value"], _key(raw["value"])) for raw in data.get("values", ())]
    return tuple(found)


@lru_cache(maxsize=1)
def _voiced() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """(slot, value in lower case) -> the sentences that hint it, as authored."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for path in (files("rlpa_env") / "data" / "world").iterdir():
        data = json.loads(path.read_text(encoding="utf-8"))
        for raw in data.get("values", ()):
            found[data["slot"], raw["value"].lower()] = tuple(raw["implicit"])
        if "range" in data:
            for age in range(data["range"][0], data["range"][1] + 1):
                found[data["slot"], str(age)] = tuple(_age_hints(data, age))
    return found


def _age_hints(data: Mapping[str, list], age: int) -> Iterable[str]:
    numbers = {"value": age, "next": age + 1, "prev": age - 1, "next_word": _number(age + 1), "prev_word": _number(age - 1)}
    numbers |= {"decade_word": _tens(age), "next_decade_word": _tens(age + 10)}
    for line in data["implicit"]:
        low, high = (0, 99) if isinstance(line, str) else line.get("ages", (0, 99))
        if low <= age <= high:
            yield (line if isinstance(line, str) else line["line"]).format(**numbers)


def _number(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    return _tens(number) + (f"-{_SMALL[number % 10]}" if number % 10 else "")


def _tens(number: int) -> str:
    return next((word for word, value in _TENS.items() if value == number // 10 * 10), "the teens")


def speaks_of_self(sentence: str) -> bool:
    """Not of somebody else, not of the past, a wish or hearsay, and no question."""
    if sentence.rstrip().endswith(("?", "？")) or _NOT_TRUE.search(sentence):
        return False
    return not _OTHERS.search(sentence) or bool(_OF_ME.search(sentence))


def _hinted(sentence: tuple[str, ...], point: Point, share: float = 0.75) -> bool:
    """Whether this share of the longer words of an authored hint stand in the sentence."""
    there = {_bare(word) for word in sentence}
    for line in _voiced().get((point.slot, point.value.lower()), ()):
        wanted = {_bare(word) for word in _key(line) if len(word) > 3}
        if {word for word in _key(line) if word in _NUMBERS} - set(sentence):
            continue
        if wanted and len(wanted & there) >= max(min(2, len(wanted)), share * len(wanted)) and (share == 1 or len(wanted) > 1):
            return True
    return False


def _stated(sentence: tuple[str, ...], point: Point) -> bool:
    """Whether the value stands in the sentence, as it is or with other endings."""
    value = _key(point.value)
    if point.slot == "Gender":  # "a man", not "the green man"
        return any(holds(sentence, (before, *value)) for before in ("a", "as", "wonder"))
    if holds(sentence, value):
        return True
    wanted = {_bare(word) for word in value if len(word) > 2}
    return len(wanted) > 1 and wanted <= {_bare(word) for word in sentence}


@lru_cache(maxsize=4096)
def _own_words(profile: Profile) -> frozenset[str]:
    """Every word of a profile and of the authored sentences about it, cut."""
    lines = [point.value for point in profile.points]
    for point in profile.points:
        lines += _voiced().get((point.slot, point.value.lower()), ())
    return frozenset(_bare(word) for line in lines for word in _key(line))


def _fits(slot: str, value: str, profile: Profile) -> bool:
    """Whether a claim agrees with the profile: its words are there, or it is the same thing by another name."""
    own = [point.value.lower() for point in profile.points if point.slot == slot]
    value = _KIN.get(slot, {}).get(value, value)
    if slot == "Age":
        return value in own
    if any(value in other or other in value for other in own):
        return True
    return {_bare(word) for word in _key(value) if len(word) > 3} <= _own_words(profile) and bool(own)


def _claims(sentence: str, profile: Profile, patterns: Mapping[str, re.Pattern[str]]) -> Iterable[tuple[str, str]]:
    """(slot, value) of claims about the speaker that do not agree with the profile."""
    for slot, pattern in patterns.items():
        for match in pattern.finditer(sentence):
            value = next(group for group in match.groups() if group).lower().strip()
            if not _fits(slot, value, profile):
                yield slot, value


def _relatives(sentence: str, profile: Profile) -> Iterable[tuple[str, str]]:
    """Relatives that the speaker mentions, whatever is said of them, and the profile does not have."""
    if sentence.rstrip().endswith(("?", "？")) or _NOT_TRUE.search(sentence):
        return ()
    return _claims(sentence, profile, _MY)


def read(message: str, profile: Profile, before: str = "") -> Reading:
    """Read one message of a person with this profile; ``before`` is what they answer, whose words they may take up."""
    parts, told, beyond, others, own = sentences(message), set(), [], 0, 0
    words_of_profile = [_key(point.value) for point in profile.points]
    for sentence in parts:
        key = _key(sentence)
        mine = {point for point in profile.points if _stated(key, point) or _hinted(key, point)}
        mine -= {a for a in mine for b in mine if a != b and holds(_key(b.value), _key(a.value))}  # "divorced" in "parents divorced early"
        foreign = [
            (slot, value)
            for slot, value, words in values()
            if holds(key, words) and len(value) > 3 and not any(holds(known, words) or known == words for known in words_of_profile)
            and not any(_stated(key, point) and holds(_key(point.value), words) for point in mine) and not holds(_key(before), words)
        ]  # fmt: skip
        hinted = {point for point in mine if _hinted(key, point, 1.0)}  # word for word: it says so whatever its form
        beyond += [f"{slot}: {value} | {sentence}" for slot, value in _relatives(sentence, profile)]
        if not speaks_of_self(sentence) and not hinted:
            others += bool((foreign or mine) and not sentence.rstrip().endswith("?"))
            continue
        foreign = [(slot, value) for slot, value in foreign if not any(_hinted(key, point) for point in mine)]
        if not _FIRST.search(sentence.replace("'", " ")):  # "It's quiet here" is about the place
            foreign = [(slot, value) for slot, value in foreign if slot != "Personality Traits"]
            mine = {point for point in mine if point.slot != "Personality Traits" or _hinted(key, point)}
        told |= mine
        beyond += [f"{slot}: {value} | {sentence}" for slot, value in foreign]
        for slot, value in _claims(sentence, profile, _CLAIMS):
            known = any(value in foreign_value.lower() for _, foreign_value in foreign)
            if not known and not any(_hinted(key, point) for point in mine):
                beyond.append(f"{slot}: {value} | {sentence}")
        own += bool(mine)
    return Reading(parts, frozenset(told), tuple(beyond), others, own)
