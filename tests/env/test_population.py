"""The bundled people: sizes, held-out values, coherence, and no constant guess that is worth much."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from rlpa_env import Profile, load_split
from rlpa_env.errors import ConfigError
from rlpa_env.population import SPLIT_SIZES, coherent, shifted
from rlpa_env.profiles import VANILLA_SLOTS
from rlpa_env.world import world

FREE = ("Occupation", "Interests", "Education Background", "Location", "Personality Traits", "Other Information")


@pytest.mark.parametrize(("name", "size"), SPLIT_SIZES.items())
def test_sizes_points_and_ids(name, size):
    people = load_split(name)
    assert len(people) == len({person.id for person in people}) == size
    assert all(12 <= len(person.points) <= 16 for person in people)
    assert len({person.points for person in people}) > 0.99 * size


def test_the_bundled_people_are_the_ones_that_results_were_measured_with():
    """Every committed figure and the leaderboard name these people by id."""
    people = json.dumps([person.to_mapping() for name in SPLIT_SIZES for person in load_split(name)])
    digest = hashlib.sha256(people.encode()).hexdigest()
    assert digest == "efd028ceb7f3ce8312b5d45de655c9d3e39d4abcaff16cbae38ffc453376cfa4", "other people under the same ids: results before and after do not compare"


def test_the_world_is_rich():
    vanilla = [v for spec in world().slots.values() if not spec.extended for v in spec.values if v.slot != "Age"]
    assert len(vanilla) >= 300
    assert sum(spec.extended for spec in world().slots.values()) >= 12
    assert {spec.name for spec in world().slots.values() if not spec.extended} == set(VANILLA_SLOTS)
    for value in vanilla:
        assert value.explicit or world().slots[value.slot].say
        assert value.topics
        if value.slot not in ("Gender",):
            assert value.implicit, value


def test_val_and_test_hold_values_that_never_occur_in_train():
    train = {point for person in load_split("vanilla/train") for point in person.points}
    for split in ("vanilla/val", "vanilla/test"):
        fresh = Counter(p.slot for person in load_split(split) for p in person.points if p not in train)
        assert set(fresh) == set(FREE)
        assert all(count >= 20 for count in fresh.values())
    slots = {p.slot for split in ("vanilla/train", "extended/train") for person in load_split(split) for p in person.points}
    values = {p.value for split in ("vanilla/train", "extended/train") for person in load_split(split) for p in person.points}
    for person in load_split("extended/test"):
        assert not {p.slot for p in person.points} & slots
        assert not {p.value for p in person.points} & values


def test_everybody_is_coherent():
    for name in SPLIT_SIZES:
        for person in load_split(name)[:300]:
            known = [value for slot, text in person.points if (value := world().find(slot, text))]
            assert len(known) == len(person.points)
            for i, value in enumerate(known):
                assert coherent(value, known[:i] + known[i + 1 :]), (person.id, value.value)
    young = [p for p in load_split("vanilla/train") if p.slots["Age"][0] in ("18", "19", "20")]
    assert young
    assert not any("retired" in value for person in young for _, value in person.points)


def test_unknown_split_names_the_nearest():
    with pytest.raises(ConfigError, match="vanilla/test"):
        load_split("vanila/test")


@pytest.mark.parametrize("slot", ["Gender", "Interests"])
def test_somebody_who_has_every_value_of_a_slot_shifts_too(slot):
    person = Profile("all", {slot: [value.value for value in world().slots[slot].values]})
    for seed in range(5):
        after, changed = shifted(person, [0], np.random.default_rng(seed))
        assert len(changed) >= 2
        assert len(after.points) == len(person.points)
        assert not {after.points[i] for i in changed} & set(person.points)


def test_a_shift_changes_two_or_three_points_one_of_them_told():
    for i, person in enumerate(load_split("vanilla/test")[:40]):
        after, changed = shifted(person, [3, 5], np.random.default_rng(i))
        assert 2 <= len(changed) <= 3
        assert changed[0] in (3, 5)
        differ = [k for k, (a, b) in enumerate(zip(person.points, after.points, strict=True)) if a != b]
        assert sorted(changed) == differ
