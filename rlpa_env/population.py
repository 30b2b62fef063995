"""The bundled people: a seeded generator that draws coherent profiles from the authored world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np

from rlpa_env.errors import unknown_choice
from rlpa_env.profiles import Profile
from rlpa_env.text import normalise
from rlpa_env.types import Point
from rlpa_env.world import SlotSpec, Value, world

SPLIT_SIZES = {
    "vanilla/train": 3821,  # the paper's number of training profiles
    "vanilla/val": 200,
    "vanilla/test": 74,  # the paper's number of test users
    "extended/train": 400,
    "extended/val": 100,
    "extended/test": 74,
}
_SEED = 2505_15456  # the paper's arXiv number; part of the ids' promise
_HELD_OUT = 0.6  # share of draws in val and test that take a value never seen in train
_TOTAL = ((12, 0.10), (13, 0.10), (14, 0.30), (15, 0.20), (16, 0.30))  # points a profile, with probability
_FREE = ("Occupation", "Interests", "Education Background", "Location", "Personality Traits", "Other Information")
_ORDER = (  # constrained slots first, so that the free ones can adapt to them
    "Age",
    "Gender",
    "Marital Status",
    "Family Background",
    "Occupation",
    "Education Background",
    "Location",
    "Personality Traits",
    "Interests",
    "Other Information",
)
_SINGLES = 6  # age, gender, education, occupation, marital status, location


def coherent(candidate: Value, chosen: Sequence[Value]) -> bool:
    """Whether one person can have ``candidate`` beside ``chosen``, by the authored ``needs`` of both sides."""
    everything = (*chosen, candidate)
    return all(_holds(value, everything) for value in everything if value.needs)


def _holds(value: Value, everything: Sequence[Value]) -> bool:
    age, gender, marital, never = map(value.needs.get, ("age", "gender", "marital", "not"))
    for other in everything:
        if other is value:
            continue
        if age and other.slot == "Age" and not age[0] <= int(other.value) <= age[1]:
            return False
        if gender and other.slot == "Gender" and other.value != gender:
            return False
        if marital and other.slot == "Marital Status" and other.value not in marital:
            return False
        if never and other.value in never:
            return False
    return True


def _weighted(values: Sequence[Value], rng: np.random.Generator) -> Value:
    total = sum(value.weight for value in values)
    mark = rng.random() * total
    for value in values:
        mark -= value.weight
        if mark < 0:
            return value
    return values[-1]


@cache
def _pools(spec: SlotSpec, kind: str) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """What people of split ``kind`` may have in a slot: values that no training profile has, and those that some have."""
    fresh = tuple(value for value in spec.values if kind in value.splits and "train" not in value.splits)
    return fresh, tuple(value for value in spec.values if "train" in value.splits)


def _draw(spec: SlotSpec, kind: str, chosen: list[Value], rng: np.random.Generator) -> Value:
    """Draw one coherent value of a slot for split ``kind`` (train, val or test)."""
    fresh, old = _pools(spec, kind)
    pool = old or fresh
    if fresh and old and rng.random() < _HELD_OUT:
        pool = fresh

    def fits(value: Value) -> bool:
        return not any(value is other for other in chosen) and coherent(value, chosen)

    for _ in range(40):
        value = _weighted(pool, rng)
        if fits(value):
            return value
    fitting = [value for value in (*pool, *fresh, *old) if fits(value)]
    if not fitting:
        raise LookupError(f"no value of {spec.name} fits beside {[value.value for value in chosen]}")
    return fitting[int(rng.random() * len(fitting))]


def _total(rng: np.random.Generator) -> int:
    mark = rng.random()
    for total, share in _TOTAL:
        mark -= share
        if mark < 0:
            return total
    return _TOTAL[-1][0]


def draw_vanilla(kind: str, rng: np.random.Generator) -> tuple[Value, ...]:
    """Draw one person over the ten slots: 12 to 16 values, in the order of ``VANILLA_SLOTS``' draw."""
    extra = _total(rng) - _SINGLES
    family = 1 + int(rng.random() < 0.3)
    traits = 2 + int(rng.random() * 2)
    other = 1 + int(rng.random() * 2)
    interests = extra - family - traits - other
    if interests > 5:
        other, interests = other + interests - 5, 5
    counts = {"Family Background": family, "Personality Traits": traits, "Other Information": other}
    counts["Interests"] = max(interests, 1)
    chosen: list[Value] = []
    for name in _ORDER:
        for _ in range(counts.get(name, 1)):
            chosen.append(_draw(world().slots[name], kind, chosen, rng))
    return tuple(chosen)


def draw_extended(kind: str, rng: np.random.Generator) -> tuple[Value, ...]:
    """Draw one person over the extended slots of the split ``kind``: 12 to 16 values, at most 3 a slot."""
    specs = [spec for spec in world().slots.values() if spec.extended and kind in spec.splits]
    total = _total(rng)
    chosen: list[Value] = []
    counts = dict.fromkeys((spec.name for spec in specs), 0)
    while len(chosen) < total:
        spec = specs[int(rng.random() * len(specs))]
        if counts[spec.name] >= (1 if spec.single else 3):
            continue
        counts[spec.name] += 1
        chosen.append(_draw(spec, kind, chosen, rng))
    return tuple(chosen)


def _profile(identity: str, values: Sequence[Value]) -> Profile:
    order = list(world().slots)
    slots: dict[str, tuple[str, ...]] = {}
    for value in sorted(values, key=lambda value: order.index(value.slot)):
        slots[value.slot] = (*slots.get(value.slot, ()), value.value)
    return Profile(id=identity, slots=slots, sensitive=[(value.slot, value.value) for value in values if value.sensitive])


_DRAW: dict[str, Callable[[str, np.random.Generator], tuple[Value, ...]]] = {
    "vanilla": draw_vanilla,
    "extended": draw_extended,
}


@lru_cache(maxsize=8)
def load_split(name: str) -> tuple[Profile, ...]:
    """All profiles of a bundled split, always the same ones in the same order.

    Ids are ``"<split>/<index>"``. Raises ConfigError for an unknown name.

    >>> people = load_split("vanilla/test")
    >>> len(people), people[0].id
    (74, 'vanilla/test/0000')
    """
    if name not in SPLIT_SIZES:
        raise unknown_choice("split", name, SPLIT_SIZES)
    family, kind = name.split("/")
    people = []
    for index in range(SPLIT_SIZES[name]):
        rng = np.random.default_rng([_SEED, list(SPLIT_SIZES).index(name), index])
        people.append(_profile(f"{name}/{index:04d}", _DRAW[family](kind, rng)))
    return tuple(people)


_LASTING = ("Age", "Gender", "Family Background", "Education Background")  # what no news can change


def shifted(
    profile: Profile, told: Sequence[int], rng: np.random.Generator, least: int = 2
) -> tuple[Profile, tuple[int, ...]]:
    """The same person after life moved on: ``least`` points changed or one more, in place.

    Args:
        told: indices into ``profile.points`` that the user has revealed; at least one of them changes.

    Returns:
        The new profile and the indices of the points that changed, told ones first.
    """
    points = profile.points
    kind = profile.id.split("/")[1] if profile.id.count("/") == 2 else "train"
    movable = [i for i, point in enumerate(points) if point.slot not in _LASTING]
    order = [i for i in movable if i in told] + [i for i in range(len(points)) if i in told and i not in movable]
    rest = [i for i in movable if i not in told] + [i for i in range(len(points)) if i not in movable and i not in told]
    _shuffle(order, rng)
    _shuffle(rest, rng)
    wanted = min(len(points), least + int(rng.random() * 2))
    first = order[: max(1, wanted - 1)]
    chosen = (*first, *(*rest, *order[len(first) :])[: wanted - len(first)])
    new = list(points)
    taken = frozenset(normalise(point.value) for point in points)  # nothing comes back under another number
    for index in chosen:
        new[index] = _another(points[index], new, taken, kind, rng)
    slots: dict[str, list[str]] = {}
    for point in new:
        slots.setdefault(point.slot, []).append(point.value)
    private = [point for point in new if point in profile.sensitive or _sensitive(point)]
    return Profile(profile.id, {slot: tuple(values) for slot, values in slots.items()}, private), chosen


def _sensitive(point: Point) -> bool:
    known = world().find(point.slot, point.value)
    return known is not None and known.sensitive


def _shuffle(items: list[int], rng: np.random.Generator) -> None:
    for i in range(len(items) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        items[i], items[j] = items[j], items[i]


def _another(
    point: Point, points: Sequence[Point], taken: frozenset[str], kind: str, rng: np.random.Generator
) -> Point:
    """A different value for the slot of ``point`` that fits the rest; people from elsewhere gain an interest.

    So does somebody who has every value of a slot already.
    """
    own = world().slot(point.slot) if point.slot else None
    there = {normalise(other.value) for other in points} | taken
    kept = [value for other in points if other != point and (value := world().find(other.slot, other.value))]
    for spec in (own, *map(world().slots.__getitem__, ("Interests", "Other Information")), *world().slots.values()):
        values = spec.values if spec else ()
        pool = [value for value in values if normalise(value.value) not in there and (kind in value.splits or "train" in value.splits)]
        if pool:
            break
    fitting = [value for value in pool if coherent(value, kept)] or pool
    return Point(point.slot, fitting[int(rng.random() * len(fitting))].value)
