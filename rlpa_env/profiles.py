"""Profiles and their information points, the slot schema with its aliases, and JSONL files of profiles."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rlpa_env.errors import ProfileError
from rlpa_env.text import normalise
from rlpa_env.types import Point

VANILLA_SLOTS = (
    "Age",
    "Gender",
    "Interests",
    "Education Background",
    "Personality Traits",
    "Occupation",
    "Marital Status",
    "Family Background",
    "Location",
    "Other Information",
)
"""The paper's ten training slots."""


@lru_cache(maxsize=1)
def slot_names() -> Mapping[str, str]:
    """Normalised name or alias -> canonical slot name, for the ten slots and the bundled extended ones."""
    schema = json.loads((files("rlpa_env") / "data" / "slots.json").read_text(encoding="utf-8"))
    table: dict[str, str] = {}
    for entry in (*schema["vanilla"], *schema["extended"]):
        for name in (entry["name"], *entry["aliases"]):
            table.setdefault(normalise(name), entry["name"])
    return MappingProxyType(table)


@lru_cache(maxsize=16_384)
def canonical_slot(name: str) -> str | None:
    """The slot of the schema that a name or alias means; None outside the schema.

    >>> canonical_slot("job"), canonical_slot("OCCUPATION"), canonical_slot("Shoe Size")
    ('Occupation', 'Occupation', None)
    """
    return slot_names().get(normalise(name))


class Profile:
    """Somebody's traits: an id and slots with one or more values each. Immutable and hashable.

    A guess is split where it names alternatives, a profile is not: "rock and roll" and "30-35" are one value each, which no
    guess that copies them hits (`actions.listable`). Write two values where two things are meant, and else plain ones.

    >>> Profile("x", {"Age": "34", "Interests": ["chess", "hiking"]}).points[1]
    Point(slot='Interests', value='chess')
    """

    __slots__ = ("_hash", "id", "points", "sensitive", "slots")

    id: str
    slots: Mapping[str, tuple[str, ...]]
    points: tuple[Point, ...]  # slot by slot, in order
    sensitive: frozenset[Point]  # those that nobody should write down before they were told: health, religion, politics

    def __init__(self, id: str, slots: Mapping[str, Any], sensitive: Iterable[Sequence[str]] = ()) -> None:
        """Check and keep. Raises ProfileError for empty names or values, duplicates and wrong types."""
        checked = _checked(id, slots)
        points = tuple(_point(slot, value) for slot, values in checked.items() for value in values)
        private = frozenset(Point(*point) for point in sensitive)
        if unknown := sorted(private - set(points)):
            raise ProfileError(f"profile {id!r}: expected sensitive points to be points of the profile; {unknown[0]} is none.")
        for name, value in (("id", id), ("slots", MappingProxyType(checked)), ("points", points), ("sensitive", private)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Profile is immutable; make a new one instead of setting {name!r}.")

    def __hash__(self) -> int:
        return hash((self.id, self.points))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and (self.id, self.points, self.sensitive) == (other.id, other.points, other.sensitive)

    def __repr__(self) -> str:
        return f"Profile({self.id!r}, {len(self.points)} points)"

    def __deepcopy__(self, memo: object) -> Profile:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (Profile, (self.id, dict(self.slots), sorted(self.sensitive)))

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Profile:
        """Build from ``{"id": ..., "slots": {...}}``, and ``"sensitive": {slot: value or values}`` if some points are."""
        if not isinstance(data, Mapping):
            raise ProfileError(f"profile: expected an object with 'id' and 'slots'; got {type(data).__name__}.")
        missing = [key for key in ("id", "slots") if key not in data]
        if missing:
            raise ProfileError(f"profile: expected the keys 'id' and 'slots'; {missing[0]!r} is missing.")
        others = [key for key in data if key not in ("id", "slots", "sensitive")]
        if others:  # a misspelt "sensitive" would tell everybody
            raise ProfileError(f"profile {data['id']!r}: expected the keys 'id', 'slots' and 'sensitive'; got {others[0]!r}. What is true of a person goes into 'slots'.")
        private = _checked(data["id"], data["sensitive"], "sensitive") if data.get("sensitive") else {}
        return cls(data["id"], data["slots"], [(slot, value) for slot, values in private.items() for value in values])

    def to_mapping(self) -> dict[str, Any]:
        """The JSON form; single values are plain strings."""
        data: dict[str, Any] = {"id": self.id, "slots": {k: v[0] if len(v) == 1 else list(v) for k, v in self.slots.items()}}
        if self.sensitive:
            data["sensitive"] = {}
            for slot, value in sorted(self.sensitive):
                data["sensitive"].setdefault(slot, []).append(value)
        return data


@lru_cache(maxsize=65_536)
def _point(slot: str, value: str) -> Point:
    """One object for equal points of many people: compared by identity first, and little for the garbage collector."""
    return Point(slot, value)


def _checked(identity: object, slots: object, key: str = "slots") -> dict[str, tuple[str, ...]]:
    if not isinstance(identity, str) or not identity.strip():
        raise ProfileError(f"profile id: expected a non-empty string; got {identity!r}.")
    if not isinstance(slots, Mapping) or not slots:
        raise ProfileError(f"profile {identity!r}: expected {key!r} to be an object with at least one slot; got {slots!r}.")
    checked: dict[str, tuple[str, ...]] = {}
    for name, raw in slots.items():
        if not isinstance(name, str) or not name.strip():
            raise ProfileError(f"profile {identity!r}: expected slot names that are non-empty strings; got {name!r}.")
        values = (raw,) if isinstance(raw, str) else raw
        if not isinstance(values, (list, tuple)) or not values:
            raise ProfileError(f"profile {identity!r}, slot {name!r}: expected a string or a list of them; got {raw!r}.")
        for value in values:
            if not isinstance(value, str) or not value.strip():
                raise ProfileError(f"profile {identity!r}, slot {name!r}: expected non-empty strings; got {value!r}.")
        seen = [normalise(value) for value in values]
        twice = next((value for value in values if seen.count(normalise(value)) > 1), None)
        if twice is not None:
            raise ProfileError(f"profile {identity!r}, slot {name!r}: the value {twice!r} stands there twice.")
        checked[name] = tuple(value.strip() for value in values)
    folded = [normalise(name) for name in checked]
    for name in checked:
        if folded.count(normalise(name)) > 1:
            raise ProfileError(f"profile {identity!r}: the slot {name!r} stands there twice.")
    return checked


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ProfileError(f"the key {key!r} stands there twice.")
        found[key] = value
    return found


def load_profiles(path: str | os.PathLike[str]) -> tuple[Profile, ...]:
    """Read a JSONL file, one profile an object a line; blank lines are skipped.

    Raises ProfileError with file and line for anything malformed; then nothing is loaded.
    """
    file = Path(path)
    if not file.is_file():
        raise ProfileError(f"{file}: expected a file of profiles, one JSON object a line; there is none.")
    profiles: list[Profile] = []
    lines_of: dict[str, int] = {}
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ProfileError(f"{file}: expected UTF-8 text; {error}.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            profile = Profile.from_mapping(json.loads(line, object_pairs_hook=_no_twins))
        except (ValueError, RecursionError) as error:  # the latter: "[[[[…"
            raise ProfileError(f"{file}:{number}: {error}") from error
        if profile.id in lines_of:
            raise ProfileError(f"{file}:{number}: the id {profile.id!r} stands in line {lines_of[profile.id]} already.")
        lines_of[profile.id] = number
        profiles.append(profile)
    if not profiles:
        raise ProfileError(f"{file}: expected at least one profile; the file is empty.")
    return tuple(profiles)
