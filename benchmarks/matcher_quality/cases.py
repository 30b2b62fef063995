"""Profiles rewritten in other words: which guesses mean a true point, which do not and why.

Two writers (see phrases.txt) note the same people independently. Nothing here imports a matcher or the text functions
that matchers use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from rlpa_env import Point, Profile

WRITERS = {1: "vanilla/val", 2: "vanilla/val", 3: "extended/val"}  # whom each of them notes
WAYS = ("near", "further")  # the key word or a form of it stays; said quite differently
KINDS = ("number", "negation", "other person", "near miss", "other value")
MOST = 5  # paraphrased points of a case, and altered ones; about what an agent lists in mid-dialogue
_PHRASES = Path(__file__).parent / "phrases.txt"
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBER = re.compile(rf"\b(?:\d+|{'|'.join(_WORDS)})\b")

_SAME = {  # slot -> writer -> other words, for the slots whose values are names or numbers
    "Age": {
        1: ("{n} years old", "{word}", "{word} years old", "aged {n}", "turned {n} this year"),
        2: ("{n}-year-old", "{word} years of age", "age is {word}", "is {n} now", "{word} by now"),
    },
    "Location": {
        1: ("lives in {v}", "{v} is home", "based in {v}", "calls {v} home", "resident of {v}", "has a flat in the city of {v}"),
        2: ("resides in {v}", "makes a home in {v}", "a {v} local", "{v} in {country}", "settled in {v}", "place to live: {v}"),
    },
}
_NEAR = {
    "Location": {
        1: ("would love to visit {v}", "spent a holiday in {v} last summer", "supports a football club from {v}"),
        2: ("dreams of moving to {v}", "once flew over {v}", "reads novels set in {v}"),
    }
}
_NEGATED = {
    "Age": {1: ("not {n}", "isn't {n} yet"), 2: ("not yet {n}", "never {n}")},
    "Gender": {1: ("not a {v}",), 2: ("isn't a {v}",)},
    "Interests": {
        1: ("no interest in {v}", "dislikes {v}", "gave up {v} years ago", "bored by {v}", "does not care for {v}", "hates {v}"),
        2: ("not into {v}", "stopped {v}", "can't stand {v}", "avoids {v}", "{v} is nothing for them", "no longer into {v}"),
    },
    "Education Background": {
        1: ("has no {v}", "did not get a {v}", "never took a {v}"),
        2: ("without a {v}", "doesn't have a {v}", "failed to get a {v}"),
    },
    "Personality Traits": {
        1: ("not {v}", "anything but {v}", "isn't {v} at all"),
        2: ("far from {v}", "the opposite of {v}", "hardly {v}"),
    },
    "Occupation": {
        1: ("not a {v}", "quit the job of {v}", "has never worked as a {v}"),
        2: ("isn't a {v}", "gave up work as a {v}", "no longer a {v}"),
    },
    "Marital Status": {1: ("not {v}", "never {v}"), 2: ("isn't {v}", "no longer {v}")},
    "Pets": {3: ("no {v}", "gave the {v} away", "does not keep a {v}")},
    "Vehicle": {3: ("no {v}", "sold the {v}", "does not own a {v}")},
    "Languages": {3: ("does not speak {v}", "no {v} at all", "never learned {v}")},
    "Dream": {3: ("no longer dreams of a {v}", "doesn't want a {v}", "gave up on the {v}")},
    "Morning Habit": {3: ("no {v}", "stopped doing {v}", "never begins with {v}")},
    "Favorite Season": {3: ("dislikes {v}", "anything but {v}", "can't bear {v}")},
    "Sports Team Role": {3: ("not the {v}", "never a {v}", "no longer the {v}")},
    "Collection": {3: ("doesn't collect {v}", "got rid of all {v}", "no {v}")},
    "Favorite Food": {3: ("hates {v}", "does not eat {v}", "can't stand {v}")},
    "Favorite Music": {3: ("hates {v}", "no fan of {v}", "bored by {v}")},
    "Location": {
        1: ("does not live in {v}", "moved away from {v}", "has never been to {v}"),
        2: ("no longer in {v}", "left {v} for good", "not from {v}"),
    },
}
_RELATIVES = {
    1: ("sister", "brother", "mother", "husband", "best friend", "boss"),
    2: ("wife", "cousin", "uncle", "flatmate", "neighbour", "daughter"),
    3: ("father", "aunt", "son", "girlfriend", "colleague", "grandmother"),
}
_OWNERS = {1: ("", "the "), 2: ("his ", "her ", "their "), 3: ("", "his ", "her ")}
_OTHERS = {
    "Age": {1: ("{rel} is {n}", "{rel} turned {n}"), 2: ("{rel} is {n} years old", "has a {n}-year-old {bare}")},
    "Gender": {1: ("{rel} is a {v}",), 2: ("in love with a {v}",)},
    "Interests": {1: ("{rel} loves {v}", "married to a fan of {v}"), 2: ("{rel} is into {v}", "{v} is the hobby of {rel}")},
    "Education Background": {1: ("{rel} has a {v}",), 2: ("{rel} got a {v}", "{v} of {rel}")},
    "Personality Traits": {1: ("{rel} is {v}", "has a {v} {bare}"), 2: ("{rel} is rather {v}", "lives with a {v} {bare}")},
    "Occupation": {1: ("{rel} is a {v}", "married to a {v}"), 2: ("{rel} works as a {v}", "friends with a {v}")},
    "Marital Status": {1: ("{rel} is {v}",), 2: ("{rel} is {v}", "children are {v}")},
    "Location": {1: ("{rel} lives in {v}",), 2: ("{rel} is from {v}", "has a {bare} in {v}")},
    "Pets": {3: ("{rel} has a {v}", "looks after the {v} of {rel}")},
    "Vehicle": {3: ("{rel} drives a {v}", "{rel} owns a {v}")},
    "Languages": {3: ("{rel} speaks {v}", "married to a speaker of {v}")},
    "Dream": {3: ("{rel} dreams of a {v}", "{rel} wants a {v}")},
    "Morning Habit": {3: ("{rel} is fond of {v}", "{rel} begins the day with {v}")},
    "Favorite Season": {3: ("{rel} loves {v}", "{v} is what {rel} likes")},
    "Sports Team Role": {3: ("{rel} is the {v}", "{rel} plays as {v}")},
    "Collection": {3: ("{rel} collects {v}", "{v} are collected by {rel}")},
    "Favorite Food": {3: ("{rel} loves {v}", "{rel} cooks {v}")},
    "Favorite Music": {3: ("{rel} listens to {v}", "{v} is what {rel} plays all day")},
}
_COUNTRIES = {
    "Aarhus": "Denmark", "Bruges": "Belgium", "Cardiff": "Wales", "Cusco": "Peru", "Edinburgh": "Scotland", "Galway": "Ireland",
    "Ghent": "Belgium", "Halifax": "Canada", "Hanoi": "Vietnam", "Hobart": "Tasmania", "Jaipur": "India", "Kraków": "Poland",
    "Leipzig": "Germany", "Lisbon": "Portugal", "Ljubljana": "Slovenia", "Marrakesh": "Morocco", "Nairobi": "Kenya",
    "Naples": "Italy", "Oaxaca": "Mexico", "Osaka": "Japan", "Plovdiv": "Bulgaria", "Porto": "Portugal", "Reykjavik": "Iceland",
    "Salzburg": "Austria", "Santa Fe": "New Mexico", "Seville": "Spain", "Tallinn": "Estonia", "Tbilisi": "Georgia",
    "Trieste": "Italy", "Utrecht": "the Netherlands", "Valparaíso": "Chile", "Vilnius": "Lithuania", "Winnipeg": "Canada",
    "Zanzibar": "Tanzania",
}  # fmt: skip
_SLOT_NAMES = {
    "Interests": ("Hobby", "Likes"), "Education Background": ("Education", "Studies"), "Personality Traits": ("Personality", "Character"),
    "Occupation": ("Job", "Profession"), "Marital Status": ("Relationship status", "Relationship"), "Family Background": ("Family", "Relatives"),
    "Location": ("City", "Lives in"), "Other Information": ("Other", "Fact"), "Gender": ("Sex", "Gender identity"), "Age": ("Age",),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One rewritten profile. ``meant[i]`` is the index of the true point that guess i means, or -1; ``kinds[i]`` why not."""

    truth: tuple[Point, ...]
    guess: tuple[Point, ...]
    meant: tuple[int, ...]
    kinds: tuple[str, ...]  # "near" or "further" paraphrase, or one of KINDS

    @property
    def count(self) -> int:
        """The number of paraphrased points, which a matcher should find."""
        return sum(index >= 0 for index in self.meant)


def number_words(number: int) -> str:
    """English words for 0..99."""
    tens, ones = divmod(number, 10)
    return _WORDS[number] if number < 20 else _TENS[tens - 2] + (f"-{_WORDS[ones]}" if ones else "")


@cache
def phrases() -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """(slot, value) -> "near", "further", "miss", "negated", "other", each one text a writer who notes that slot."""
    found, slot = {}, ""
    for line in _PHRASES.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            slot = line[3:].strip()
        elif slot and line.strip() and not line.startswith("#"):
            value, *texts = (part.strip() for part in line.split("|"))
            if len(texts) == 3:
                found[slot, value] = {name: (text,) for name, text in zip(("near", "further", "miss"), texts, strict=True)}
                continue
            one_near, one_far, two_near, two_far, *rest = texts
            names = ("miss", "negated", "other")[: len(rest) // 2]
            pairs = {name: (rest[2 * i], rest[2 * i + 1]) for i, name in enumerate(names)}
            found[slot, value] = {"near": (one_near, two_near), "further": (one_far, two_far), **pairs}
    return found


class Writer:
    """Notes points in other words, or alters them."""

    def __init__(self, number: int, people: Sequence[Profile], rng: np.random.Generator, ways: Sequence[str] = WAYS) -> None:
        self.number, self.rng, self.ways = number, rng, ways
        self.place = number - 1 if number < 3 else 0  # in the columns of phrases.txt
        self.values: dict[str, list[str]] = {}
        for person in people:
            for slot, value in person.points:
                if value not in self.values.setdefault(slot, []):
                    self.values[slot].append(value)

    def _pick(self, texts: Sequence[str]) -> str:
        return texts[int(self.rng.integers(len(texts)))]

    def _filled(self, template: str, value: str) -> str:
        bare = self._pick(_RELATIVES[self.number])
        number = {"n": value, "word": number_words(int(value))} if value.isdigit() else {}
        rel = self._pick(_OWNERS[self.number]) + bare
        text = template.format(v=value, rel=rel, bare=bare, country=_COUNTRIES.get(value, ""), **number)
        return re.sub(r"\ba (?=[aeio])", "an ", text)

    def paraphrase(self, point: Point) -> tuple[str, str]:
        """Other words for a point's value, and which of ``self.ways`` they are: "near" or "further"."""
        kind = self._pick(self.ways)
        if point.slot in _SAME:
            templates = _SAME[point.slot][self.number]
            half = (len(templates) + 1) // 2
            return self._filled(self._pick(templates[:half] if kind == "near" else templates[half:]), point.value), kind
        return phrases()[point][kind][self.place], kind

    def alter(self, kind: str, points: Sequence[Point], person: Profile) -> tuple[Point, str] | None:
        """One of the points and a value that it does not have; None where none can be altered in this way."""
        for index in self.rng.permutation(len(points)):
            if text := self._altered(kind, points[index], person):
                return points[index], text
        return None

    def _altered(self, kind: str, point: Point, person: Profile) -> str:
        slot, value = point
        own = phrases().get((slot, value), {})
        mine = {v for s, v in person.points if s == slot}
        if kind == "number":
            return self._other_number(slot, value)
        if kind == "negation":
            if "negated" in own:
                return own["negated"][self.place]
            if value.startswith(("former", "retired", "abandoned", "half-")):  # negations of these are puzzles
                return ""
            return self._filled(self._pick(_NEGATED[slot][self.number]), value)
        if kind == "other person":
            return own["other"][self.place] if "other" in own else self._filled(self._pick(_OTHERS[slot][self.number]), value)
        if kind == "near miss":
            if slot in _NEAR:
                return self._filled(self._pick(_NEAR[slot][self.number]), value)
            miss = own["miss"][self.place] if own else ""
            return "" if miss in mine else miss
        others = [] if slot in ("Age", "Gender") else [v for v in self.values[slot] if v not in mine]
        return self.paraphrase(Point(slot, self._pick(others)))[0] if others else ""

    def _other_number(self, slot: str, value: str) -> str:
        """The same words with another number; "" where there is none."""
        if slot == "Age":
            other = int(value) + int(self._pick("-2 -1 1 2 3 10 -10".split()))
            templates = (*_SAME[slot][self.number], ("nearly {n}", "soon {n}")[self.place])
            template = self._pick(templates)
            return self._filled(template, value if template == templates[-1] else str(max(10, min(other, 99))))
        if value in ("budgie pair", "goldfish trio"):
            return value.replace("pair", "trio") if "pair" in value else "four goldfish"
        if value == "twice a lottery winner":
            return ("three times a lottery winner", "won the lottery once")[self.place]
        text = self.paraphrase(Point(slot, value))[0]
        if not (found := _NUMBER.search(text)):
            return ""
        old = int(found[0]) if found[0].isdigit() else _WORDS.index(found[0])
        new = old + 1 if old < 3 or self.rng.integers(2) else old - 1
        return text[: found.start()] + (str(new) if found[0].isdigit() else number_words(new)) + text[found.end() :]

    def named(self, slot: str) -> str:
        """The slot as an agent may name it: its own name, another one, or none."""
        draw = self.rng.random()
        if draw < 0.5 or slot == "Age":
            return slot
        return self._pick(_SLOT_NAMES.get(slot, (slot,))) if draw < 0.75 else ""


def cases(
    people: Sequence[Profile], writer: int, count: int, seed: int, ways: Sequence[str] = WAYS, whole: bool = False
) -> Iterator[Case]:
    """``count`` cases from people in turn: a paraphrased and b altered points of a profile, each 0 to MOST, not both 0.

    Args:
        ways: of paraphrasing; the words for another value of the slot are of these ways too.
        whole: every point of the profile is rewritten.
    """
    rng = np.random.default_rng([seed, writer, len(ways), whole])
    author = Writer(writer, people, rng, ways)
    for index in range(count):
        person = people[index % len(people)]
        size = len(person.points)
        if whole:
            same, total = int(rng.integers(size + 1)), size
        else:
            same, altered = 0, 0
            while same + altered == 0:
                same, altered = (int(drawn) for drawn in rng.integers(MOST + 1, size=2))
            total = same + altered
        left, rows = list(person.points), []
        while len(rows) < total - same:
            kind = KINDS[int(rng.integers(len(KINDS)))]
            if (found := author.alter(kind, left, person)) is not None:
                left.remove(found[0])
                rows.append((Point(author.named(found[0].slot), found[1]), -1, kind))
        for where in rng.permutation(len(left))[:same]:
            text, kind = author.paraphrase(left[where])
            rows.append((Point(author.named(left[where].slot), text), person.points.index(left[where]), kind))
        rows = [rows[i] for i in rng.permutation(len(rows))]
        guess, meant, kinds = zip(*rows, strict=True)
        yield Case(person.points, guess, meant, kinds)
