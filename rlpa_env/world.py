"""The authored world: which values a slot can take, how people voice them, what goes with them.

Everything is read from the JSON files in ``data/`` once and kept as frozen records; nothing is drawn here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from rlpa_env.profiles import canonical_slot
from rlpa_env.text import normalise

SPLITS = ("train", "val", "test")
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()


@dataclass(frozen=True)
class Value:
    """One value of a slot with the knowledge that a speaker, a listener and a judge have of it."""

    slot: str
    value: str
    phrase: str  # the value as it stands in a sentence: "a baker" for "baker"
    splits: tuple[str, ...]  # the splits it may occur in
    explicit: tuple[str, ...]  # first-person sentences that contain the value verbatim
    implicit: tuple[str, ...]  # first-person sentences from which it can be inferred, sharing no content word
    topics: tuple[str, ...]  # names from data/topics.json, the main one first
    needs: Mapping[str, Any] = field(default_factory=dict)  # coherence: age range, gender, marital, not, with
    clash: tuple[str, ...] = ()  # words of suggestions that would be wrong for this person
    fits: tuple[str, ...] = ()  # suggestions that would be right
    weight: float = 1.0  # relative frequency in the population
    sensitive: bool = False  # health, origin: not to be written down before it was told

    def __hash__(self) -> int:
        return hash((self.slot, self.value))


@dataclass(frozen=True)
class SlotSpec:
    """One slot of the schema and everything authored for it."""

    name: str
    aliases: tuple[str, ...]
    single: bool  # at most one value a person
    private: bool  # asked about, it is told only to somebody trusted
    splits: tuple[str, ...]  # extended slots: the splits that use it; vanilla slots: all
    extended: bool
    about: tuple[str, ...]  # words by which a question asks for this slot
    say: tuple[str, ...]  # templates with {value} or {a}
    values: tuple[Value, ...]

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class World:
    """Slots by canonical name, and the simulated user's own phrases."""

    slots: Mapping[str, SlotSpec]
    voice: Mapping[str, Any]
    _index: Mapping[tuple[str, str], Value] = field(repr=False, default_factory=dict)

    def find(self, slot: str, value: str) -> Value | None:
        """The authored record of a value, or None. ``slot=""`` looks through all slots.

        >>> world().find("job", "Baker") is world().find("Occupation", "baker")
        True
        """
        name = canonical_slot(slot) if slot else ""
        return None if name is None else self._index.get((name, normalise(value)))

    def slot(self, name: str) -> SlotSpec | None:
        """The slot that ``name`` (or one of its aliases) resolves to, or None outside the schema."""
        canonical = canonical_slot(name)
        return None if canonical is None else self.slots.get(canonical)


def number_word(number: int) -> str:
    """English words for 0..99.

    >>> number_word(34), number_word(18)
    ('thirty-four', 'eighteen')
    """
    if not 0 <= number < 100:
        raise ValueError(f"number_word: expected 0..99; got {number}")
    if number < 20:
        return _SMALL[number]
    return _TENS[number // 10] + (f"-{_SMALL[number % 10]}" if number % 10 else "")


def _age_values(data: Mapping[str, Any]) -> tuple[Value, ...]:
    """Age is the one slot with arithmetic: one value a year, voiced by templates over its neighbours."""
    low, high = data["range"]
    values = []
    for age in range(low, high + 1):
        near = {
            "next": age + 1,
            "next_word": number_word(age + 1),
            "prev_word": number_word(age - 1),
            "prev": age - 1,
            "decade_word": _TENS[age // 10] or "the teens",
            "next_decade_word": _TENS[age // 10 + 1],
            "value": age,
        }
        values.append(
            Value(
                slot="Age",
                value=str(age),
                phrase=str(age),
                splits=SPLITS,
                explicit=tuple(line.replace("{value}", str(age)) for line in data["say"]),
                implicit=tuple(line.format(**near) for line in _age_lines(data, age)),
                topics=tuple(data["topics"]),
                fits=tuple(data.get("fits", ())),
            )
        )
    return tuple(values)


def _age_lines(data: Mapping[str, Any], age: int) -> list[str]:
    return [line if isinstance(line, str) else line["line"] for line in data["implicit"]
            if isinstance(line, str) or line.get("ages", [0, 99])[0] <= age <= line.get("ages", [0, 99])[1]]


def _value(slot: str, raw: Mapping[str, Any]) -> Value:
    return Value(
        slot=slot,
        value=raw["value"],
        phrase=raw.get("a", raw["value"]),
        splits=tuple(raw.get("in", SPLITS)),
        explicit=tuple(raw["explicit"]),
        implicit=tuple(raw["implicit"]),
        topics=tuple(raw["topics"]),
        needs=MappingProxyType(dict(raw.get("needs", {}))),
        clash=tuple(raw.get("clash", ())),
        fits=tuple(raw.get("fits", ())),
        weight=float(raw.get("weight", 1.0)),
        sensitive=bool(raw.get("sensitive", False)),
    )


@lru_cache(maxsize=1)
def world() -> World:
    """Read the world once; a few dozen milliseconds."""
    data = files("rlpa_env") / "data"
    schema = json.loads((data / "slots.json").read_text(encoding="utf-8"))
    authored = {}
    for path in sorted((data / "world").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            authored[content["slot"]] = content
    slots = {}
    for group in ("vanilla", "extended"):
        for entry in schema[group]:
            content = authored.get(entry["name"], {"about": [], "say": [], "values": []})
            values = (
                _age_values(content)
                if "range" in content
                else tuple(_value(entry["name"], raw) for raw in content["values"])
            )
            slots[entry["name"]] = SlotSpec(
                name=entry["name"],
                aliases=tuple(entry["aliases"]),
                single=bool(entry["single"]),
                private=bool(entry["private"]),
                splits=tuple(entry.get("splits", SPLITS)),
                extended=group == "extended",
                about=tuple(content["about"]),
                say=tuple(content["say"]),
                values=values,
            )
    index = {}
    for spec in slots.values():
        for value in spec.values:
            index[spec.name, normalise(value.value)] = value
            if spec.name != "Age":  # a bare number is no value of anything
                index.setdefault(("", normalise(value.value)), value)
    voice = json.loads((data / "voice.json").read_text(encoding="utf-8"))
    return World(MappingProxyType(slots), MappingProxyType(voice), MappingProxyType(index))
