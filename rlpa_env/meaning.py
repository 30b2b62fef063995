"""What a value says, as far as words show it: content, numbers, negation and whom it is about; and what rules a match out.

Every matcher asks `comparable` first. The words behind it (synonyms, negations, words of one kind) are data in
``data/lexicon.json``; a synonym may be a phrase, and stands for all its inflections.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from rapidfuzz.distance import Levenshtein

from rlpa_env.persons import people
from rlpa_env.profiles import canonical_slot
from rlpa_env.text import STOP_WORDS, normalise, stem, words
from rlpa_env.types import Point

_NUMBERS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen".split()
    )
} | {word: 10 * (i + 2) for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())}
_TIMES = {"twice": 2, "thrice": 3, "trio": 3, "dozen": 12}
_NEARLY = frozenset("nearly almost soon approximately over under roughly".split())
_INEXACT = math.inf  # stands beside a number that is not meant exactly
_SIGN = re.compile(r"(?<!\d )(?:(?<![^\s(:=])[-\u2212]|\bminus )(?=\d)", re.IGNORECASE)  # -5, but no 3-5, no 3 -5, no COVID-19
_MINUS = "minus"  # what a sign becomes, so that it stays with its digits
_FRACTION = re.compile(r"(?<![\d.])(\d+)\.(\d+)(?![\d.])")
_DOT = "dot"  # what a decimal point becomes
_ROMAN = re.compile(  # IV and the like, single letters after level and the like only
    r"\b(?:(?<=\b[Ll]evel )|(?<=\b[Tt]ype )|(?<=\b[Cc]lass )|(?<=\b[Gg]rade )|(?=[IVX]{2}))(?=[IVX]+\b(?!['-]))(X{0,3})(IX|IV|V?I{0,3})\b"
)
_ONES = {"": 0, "I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VII": 7, "VIII": 8, "IX": 9}
_DIGITS_OF_INT = 600  # Python reads no decimal numbers of some thousand digits
_LIKES = frozenset("like likes liking love loves loving enjoy enjoys enjoying fond keen fan adore adores".split())
_AVERSE = frozenset(map(stem, ("afraid", "allergic")))  # and their synonyms
_UNTRUE = re.compile(
    r"^(?:was|were|had been) (?:once )?an? (?!only|foster|adopted|twin|middle|late|child|teen)|^once an? (?!day|week|fortnight|month|year)"
    r"|^(?:less|least|almost|nearly|soon|soon to be|about to be|hardly|barely|not yet)\b"
    r"|\bin the past\b|\b(?:except|fake|false)\b",
    re.IGNORECASE,
)
_WISHED = re.compile(
    r"\b(?:want|wish|hop|long|plann?|aspir|pretend|dream|try|tri|go)(?:e?s|e?d|ing|e)? to (?:be|become)\b|\b(?:would|'d) (?:like|love) to (?:be|become)\b"
    r"|\bdream(?:s|t|ed|ing)? (?:of|about) (?:being|becoming)\b|\bto become\b|\bbecoming an?\b|\b(?:aspiring|would-be|wannabe) (?!and\b|or\b)\w",
    re.IGNORECASE,
)
_WITHIN = re.compile(r"(?<=\w)(?:,| in) (?:the )?[A-Z][\w ]+$")
_PRIVATIVE = ("un", "in", "im", "ir", "il", "dis", "non")
_INFLECTIONS = frozenset(["", "s", "es", "e", "d", "ed", "ing", "'s", "y", "ies", "ied", "s'"])
_SAME_ENDS = frozenset(
    ["", "e", "s", "t", "y", "i", "m", "ic", "ics", "tic", "ical", "al", "ian", "ist", "or", "er", "ion", "ation", "ive", "ous", "ious", "ity", "cy", "ci", "nt", "nce",
     "ship", "ment", "ism", "ful", "ness", "ier"]
)  # fmt: skip
_HEAD = 3  # letters that forms of one word have in common
_LONG = 6  # letters from which a typo is forgiven
_FULL, _LIGHT = 10, 3  # what a word counts, and one that frames rather than says; whole numbers add up alike in any order


class Meaning(NamedTuple):
    """What a value says."""

    normal: str
    stems: frozenset[str]  # synonyms folded
    heads: frozenset[str]  # their beginnings: values without a common one share no word
    denied: frozenset[str]  # what is left of stems such as intolerant without their first syllable
    numbers: frozenset[float]  # and ``_INEXACT``
    negated: bool
    wished: bool  # wants to be a baker
    averse: bool  # allergic to cats
    likes: bool  # says so: likes cats
    about: frozenset[str]  # other people that it says something of
    named: frozenset[str]  # all people in it
    subject: frozenset[str]  # those it begins with
    kinds: Mapping[str, frozenset[str]]  # kind -> its words of that kind: a cat is no dog
    bare: bool  # only a number, yes/no or stop words: means nothing without its slot


class _Lexicon(NamedTuple):
    phrases: Mapping[tuple[str, ...], tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]]  # stems -> (words, what they stand for)
    longest: int
    apart: tuple[tuple[str, str], ...]  # negations with something between their words: gave ... away
    filler: frozenset[str]
    light: frozenset[str]
    kinds: Mapping[str, tuple[str, ...]]  # stem -> kinds


_NOT = "<not>"


def _stemmed(text: str) -> tuple[str, ...]:
    return tuple(stem(token) for token in words(text))


@lru_cache(maxsize=1)
def _lexicon() -> _Lexicon:
    data = json.loads((files("rlpa_env") / "data" / "lexicon.json").read_text(encoding="utf-8"))
    split = [phrase.partition("…") for phrase in data["negations"].split(",")]
    said = {phrase: (_NOT,) for phrase, gap, _ in split if not gap}
    said |= {phrase: _stemmed(base) for base, others in data["synonyms"].items() for phrase in others.split(",")}
    phrases: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for phrase, meant in said.items():
        phrases[_stemmed(phrase)] = (*phrases.get(_stemmed(phrase), ()), (words(phrase), meant))
    kinds: dict[str, tuple[str, ...]] = {}
    for kind, members in data["kinds"].items():
        for member in map(stem, members.split()):
            kinds[member] = (*kinds.get(member, ()), kind)
    return _Lexicon(
        phrases,
        max(map(len, phrases)),
        tuple((first.strip(), last.strip()) for first, gap, last in split if gap),
        frozenset(map(stem, data["filler"].split())),
        frozenset(map(stem, data["light"].split())),
        kinds,
    )


def _plain(value: str) -> str:
    """Full-width letters and digits as plain ones, sign and point as part of their number: "−５.2" is "minus5dot2"."""
    if not value.isascii():
        value = unicodedata.normalize("NFKC", value.replace("\u00b4", "'"))  # an accent that serves as apostrophe
    return _FRACTION.sub(rf"\1{_DOT}\2", _SIGN.sub(_MINUS, value))


def _number(token: str) -> float | None:
    """The number that digits write, however many they are; None for other tokens."""
    digits, dot, fraction = token.removeprefix(_MINUS).partition(_DOT)
    if not digits.isdecimal() or (dot and not fraction.isdecimal()):
        return None
    size: float = int(digits) if len(digits) <= _DIGITS_OF_INT else int(digits, 16)  # another number, but each its own
    if dot and size < 1e15:
        size = float(f"{digits}.{fraction}")
    return -size if token.startswith(_MINUS) else size


def _numbered(tokens: Iterable[str]) -> tuple[set[float], list[str]]:
    """The numbers among tokens, words or digits, and the other tokens. One beside other words counts nothing."""
    numbers: set[float] = set()
    rest: list[str] = []
    tens = 0
    for token in tokens:
        number, written = _NUMBERS.get(token, _TIMES.get(token, -1)), _number(token)
        if written is not None:
            numbers.add(written)
        elif number < 0:
            rest.append(token)
        elif number >= 20:
            numbers.add(number)
            tens = number
            continue
        elif tens and number < 10:
            numbers.discard(tens)
            numbers.add(tens + number)
        else:
            numbers.add(number)
        tens = 0
    if rest:
        numbers.discard(1)
    if numbers and not _NEARLY.isdisjoint(rest):
        numbers.add(_INEXACT)
    return numbers, rest


def _inflected(token: str, word: str) -> bool:
    """Whether two words of one stem are inflections of each other; a planner is no plane."""
    if token == word:
        return True
    shared = next((i for i, (a, b) in enumerate(zip(token, word, strict=False)) if a != b), min(len(token), len(word)))
    return token[shared:] in _INFLECTIONS and word[shared:] in _INFLECTIONS


def _folded(tokens: list[str], lexicon: _Lexicon) -> list[str]:
    """Stems with synonyms and negations replaced, the longest phrase first."""
    found: list[str] = []
    place, plain = 0, [stem(token) for token in tokens]
    while place < len(plain):
        for size in range(min(lexicon.longest, len(plain) - place), 0, -1):
            entries = lexicon.phrases.get(tuple(plain[place : place + size]), ())
            said = next((meant for phrase, meant in entries if all(map(_inflected, tokens[place : place + size], phrase))), None)
            if said is not None:
                found += said
                place += size
                break
        else:
            if tokens[place] not in STOP_WORDS and (len(tokens[place]) > 1 or tokens[place].isdigit()):
                found.append(plain[place])
            place += 1
    return found


def _denies(value: str, tokens: list[str], lexicon: _Lexicon) -> bool:
    """Whether a value denies in more than one phrase, or says what was or is pretended."""
    return any(first in tokens and last in tokens[tokens.index(first) :] for first, last in lexicon.apart) or bool(_UNTRUE.search(value))


@lru_cache(maxsize=65_536)
def meaning(value: str) -> Meaning:
    """What a value says.

    >>> said = meaning("has two small dogs")
    >>> sorted(said.stems), sorted(said.numbers), said.negated
    (['dog', 'small'], [2], False)
    """
    lexicon = _lexicon()
    value = _plain(value)
    arabic = _ROMAN.sub(lambda roman: str(10 * len(roman[1]) + _ONES[roman[2]]), value)
    tokens = ["elder" if token == "older" else token for token in words(arabic)]  # its stem is that of "old"
    numbers, rest = _numbered(tokens)
    folded = _folded(rest, lexicon)
    content = {s for s in folded if s != _NOT and not s.isdigit()}
    kept = content - lexicon.filler
    if not kept and not numbers:  # "works": nothing but filler, so the filler is what it says; "34 years old" is a number
        kept = content
    kinds: dict[str, set[str]] = {}
    for word in kept:
        for kind in lexicon.kinds.get(word, ()):
            kinds.setdefault(kind, set()).add(word)
    about, named, subject = people(rest)
    return Meaning(
        normalise(value),
        frozenset(kept),
        frozenset(word[:_HEAD] for word in kept),
        frozenset(w[len(prefix) :] for w in kept for prefix in _PRIVATIVE if w.startswith(prefix) and len(w) > len(prefix) + 3),
        frozenset(numbers),
        _NOT in folded or _denies(value, rest, lexicon),
        bool(_WISHED.search(value)),
        not _AVERSE.isdisjoint(kept),
        not _LIKES.isdisjoint(rest),
        frozenset(about),
        frozenset(named),
        frozenset(subject),
        {kind: frozenset(members) for kind, members in kinds.items()},
        not kept,
    )


def _weight(stems: Iterable[str]) -> int:
    """How much words say; those that only frame ("plays", "degree", "household") say less."""
    light = _lexicon().light
    return sum(_LIGHT if s in light else _FULL for s in stems)


def _akin(one: str, other: str) -> bool:
    """Whether two stems are forms of one word: robot and robotics, or a typo in a long word."""
    if one[:_HEAD] != other[:_HEAD]:
        return False
    if min(len(one), len(other)) >= _LONG and Levenshtein.distance(one, other) <= 1:
        return True
    shared = _HEAD
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return any(one[cut:] in _SAME_ENDS and other[cut:] in _SAME_ENDS for cut in range(max(4, shared - 2), shared + 1))


def _exclude(one: Meaning, other: Meaning) -> bool:
    """Whether two values name different things of one kind (cat and dog, older and younger), or opposites (tolerant, intolerant)."""
    if any(members.isdisjoint(other.kinds.get(kind, members)) for kind, members in one.kinds.items()):
        return True
    return _opposite(one, other) or _opposite(other, one)


def _opposite(one: Meaning, other: Meaning) -> bool:
    return any(_akin(base, word) for base in one.denied for word in other.stems - one.stems)


def _dreads_what_is_liked(one: Meaning, other: Meaning, slot: str | None) -> bool:
    """Whether one value fears, or is allergic to, what the other likes."""
    return one.averse != other.averse and (slot == "Interests" or (other if one.averse else one).likes)


def _same_people(guess: Meaning, truth: Meaning, slot: str | None) -> bool:
    """Whether both are said of the user, or of the same others."""
    if slot == "Marital Status":  # has a husband; but not: the husband is divorced
        lost = {"spouse"} if "widow" in truth.stems else set()  # the husband has died: widowed
        return guess.subject <= truth.named | lost and "somebody" not in guess.about
    further = guess.about - truth.named
    if slot == "Family Background":
        further -= {"tie"}
        if "parent" in guess.stems and not truth.named:  # parents worked in the circus: a circus family
            further -= {"parent"}
    return not further and truth.about <= guess.named


@lru_cache(maxsize=262_144)
def comparable(guess: Point, truth: Point) -> bool:
    """Whether two points may mean the same at all, however alike they sound.

    Not where both slots are known and differ, numbers differ, one is negated, one is about somebody else, or they name
    different things of one kind; and a value that is only a number, yes/no or a stop word means something under the same
    slot name only.

    >>> comparable(Point("Age", "34"), Point("Age", "33")), comparable(Point("", "no pets"), Point("", "has pets"))
    (False, False)
    """
    return _same_slot(guess, truth) and _compatible(guess.value, truth.value, canonical_slot(truth.slot) if truth.slot else None)


def _compatible(guess: str, truth: str, slot: str | None) -> bool:
    a, b = meaning(guess), meaning(truth)
    if a.normal == b.normal:
        return True
    if (a.negated, a.wished, a.numbers) != (b.negated, b.wished, b.numbers) or not _same_people(a, b, slot):
        return False
    return not (_exclude(a, b) or _dreads_what_is_liked(a, b, slot))


def _same_slot(guess: Point, truth: Point) -> bool:
    own, true = (canonical_slot(p.slot) if p.slot else None for p in (guess, truth))
    if own is not None and true is not None and own != true:
        return False
    if meaning(truth.value).bare or meaning(guess.value).bare:
        return own == true if own or true else normalise(guess.slot) == normalise(truth.slot) and bool(guess.slot)
    return True


def _common(a: frozenset[str], b: frozenset[str]) -> tuple[int, int]:
    """(weight of what both say, weight of what either says)."""
    same = a & b
    left, right = sorted(a - same), sorted(b - same)
    shared = total = _weight(same)
    for word in left:
        twins = [other for other in right if _akin(other, word)][:1] or _parts(word, right)
        right = [other for other in right if other not in twins]
        shared += _weight((word,)) if twins else 0
        total += _weight((word,))
    for word in right:
        parts = _parts(word, left)
        shared += _weight(parts)
        total += 0 if parts else _weight((word,))
    return shared, total


def _parts(compound: str, words: list[str]) -> list[str]:
    """The two words that a compound is made of, as near as stems show it: a campervan is a camper van."""
    for first in words:
        if compound.startswith(first) and len(first) > 2:
            last = next((w for w in words if w != first and compound.endswith(w) and len(first) + len(w) >= len(compound) - 2), "")
            if last:
                return [first, last]
    return []


def _place(value: str) -> str:
    """Porto for "Porto in Portugal"; but "lives in Porto" stays."""
    place = _WITHIN.sub("", value)
    lexicon = _lexicon()
    return place if meaning(place).stems - lexicon.filler - lexicon.light else value


def value_score(guess: str, truth: str, slot: str | None = None) -> float:
    """How far two values say the same, in [0, 1]; whatever one says beyond the other lowers it.

    Args:
        slot: canonical slot of the truth, if it is known.

    >>> value_score("works as a baker", "baker"), value_score("cat person", "dog person")
    (1.0, 0.0)
    """
    if slot == "Location":
        guess, truth = _place(guess), _place(truth)
    a, b = meaning(guess), meaning(truth)
    if a.normal == b.normal:
        return 1.0
    if (a.heads.isdisjoint(b.heads) and not (a.bare or b.bare)) or not _compatible(guess, truth, slot):
        return 0.0
    if a.bare or b.bare:
        said = max(len(a.stems), len(b.stems)) if a.bare != b.bare else 0  # words around the number
        return 2.0 / (2.0 + said) if a.numbers else 0.0
    shared, total = _common(a.stems, b.stems)
    return shared / total if total else 0.0


@lru_cache(maxsize=262_144)
def point_score(guess: Point, truth: Point) -> float:
    """`value_score` where the slots allow it, else 0."""
    return value_score(guess.value, truth.value, canonical_slot(truth.slot) if truth.slot else None) if _same_slot(guess, truth) else 0.0
