"""Wording: how a chosen point, a distractor, a complaint or a request is said. Draws lines, decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rlpa_env.disclosure import Fact
from rlpa_env.profiles import Profile
from rlpa_env.text import sentences, stems
from rlpa_env.types import Point
from rlpa_env.world import SPLITS, SlotSpec, Value, world

_SHORT = 5  # words; a longer value is a sentence of its own


def pick(rng: np.random.Generator, lines: Sequence[str], used: set[str]) -> str:
    """Draw a line that was not used yet in this dialogue, if a few tries find one."""
    line = lines[int(rng.random() * len(lines))]
    for _ in range(3):
        if line not in used:
            break
        line = lines[int(rng.random() * len(lines))]
    used.add(line)
    return line


def _fill(template: str, value: str, phrase: str) -> str:
    line = template.replace("{value}", value).replace("{a}", phrase)
    return line[0].upper() + line[1:]


def _own_words(fact: Fact) -> str:
    """A value from elsewhere as a sentence of its own."""
    text = fact.point.value.strip().rstrip(".")
    return text[:1].upper() + text[1:] + "."


@lru_cache(maxsize=32768)
def plain_lines(fact: Fact) -> tuple[str, ...]:
    """Ways to say the point plainly; each contains the value verbatim."""
    value, voice = fact.point.value, world().voice
    if fact.value:
        spec = world().slots[fact.value.slot]
        return (*fact.value.explicit, *(_fill(line, value, fact.value.phrase) for line in spec.say))
    bare = value.strip().rstrip(".") or value.strip()
    known = world().slots.get(fact.slot)
    if known and len(bare.split()) <= _SHORT:
        return tuple(_fill(line, bare, _with_article(known, bare)) for line in known.say)
    if fact.point.slot and len(bare.split()) <= _SHORT:
        slot = fact.point.slot.lower()
        return tuple(_fill(line.replace("{slot_lower}", slot), bare, bare) for line in voice["generic_say"])
    unnamed = tuple(_fill(line, bare, bare) for line in voice["generic_unnamed"])
    return (_own_words(fact), *unnamed) if len(bare.split()) > 3 else unnamed


def _with_article(spec: SlotSpec, value: str) -> str:
    """A value from elsewhere as it stands in a sentence: with an article where the slot's own values take one."""
    taking = sum(known.phrase.startswith(("a ", "an ")) for known in spec.values)
    if 2 * taking <= len(spec.values):
        return value
    return f"an {value}" if value[0].lower() in "aeiou" else f"a {value}"


def hint_lines(fact: Fact) -> tuple[str, ...]:
    """Ways to let the point show without naming it; empty where nobody wrote any, as for people from elsewhere.

    A template could only say that there is something to tell ("My job is a topic of its own"), from which nothing can be known.
    """
    return fact.value.implicit if fact.value else ()


@lru_cache(maxsize=4096)
def _strangers(slot: str, home: str) -> tuple[Value, ...]:
    """Values that somebody else may have in a dialogue with a person of the split ``home``."""
    kinds = ("train",) if home not in ("val", "test") else ("train", home)
    return tuple(v for v in world().slots[slot].values if any(kind in v.splits for kind in kinds))


def _home(profile: Profile) -> str:
    kind = profile.id.split("/")[1] if profile.id.count("/") == 2 else "train"
    return kind if kind in SPLITS else "train"


def distractor(
    profile: Profile, slots: Sequence[str], rng: np.random.Generator, used: set[str]
) -> tuple[str, Point] | None:
    """A fact-like sentence that is not about the user now, and the point one could wrongly take from it."""
    slot = slots[int(rng.random() * len(slots))]
    spec = world().slots.get(slot)
    if spec is None or not spec.values:
        spec = world().slots["Interests"]
    pool = _strangers(spec.name, _home(profile)) or spec.values
    own = frozenset().union(frozenset(), *(stems(point.value) for point in profile.points))
    for _ in range(4):
        value = pool[int(rng.random() * len(pool))]
        if not stems(value.value) & own:
            break
    else:
        return None
    lines = world().voice["distractor"]
    line = pick(rng, lines.get(spec.name, lines["*"]), used)
    return _fill(line, value.value, value.phrase), Point(spec.name, value.value)


@lru_cache(maxsize=65536)
def _length(line: str) -> int:
    return len(sentences(line))


def fitting(parts: Sequence[tuple[int, str]], most: int) -> list[int]:
    """Indices of the parts that fit into a message of at most ``most`` sentences.

    ``parts`` are (priority, sentence) in speaking order; the least important (highest number) are left out first.
    """
    sizes = [min(_length(line), most) for _, line in parts]  # who has a trait of more sentences tells it in a message of its own
    if sum(sizes) <= most:
        return list(range(len(parts)))
    kept, room = [], most
    for _, index in sorted((priority, index) for index, (priority, _) in enumerate(parts)):
        if sizes[index] <= room:
            kept.append(index)
            room -= sizes[index]
    return sorted(kept)
