"""Profiles: immutable, checked, and nothing half-loaded from a broken file."""

from __future__ import annotations

import json
import pickle

import pytest

from rlpa_env import Point, Profile, ProfileError, load_profiles
from rlpa_env.profiles import VANILLA_SLOTS, canonical_slot

GOOD = {"id": "a", "slots": {"Age": "34", "Interests": ["chess", "hiking"]}}


def test_points_keep_slots_values_and_their_order():
    profile = Profile.from_mapping(GOOD)
    assert profile.points == (Point("Age", "34"), Point("Interests", "chess"), Point("Interests", "hiking"))
    assert Profile.from_mapping(profile.to_mapping()) == profile
    assert pickle.loads(pickle.dumps(profile)) == profile
    assert hash(Profile.from_mapping(GOOD)) == hash(profile)
    with pytest.raises(AttributeError, match="immutable"):
        profile.id = "b"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line"),
        ("[1]", "expected an object"),
        ("[" * 100_000, "recursion"),
        ('{"id": "x"}', "'slots' is missing"),
        ('{"id": "", "slots": {"Age": "3"}}', "non-empty string"),
        ('{"id": 7, "slots": {"Age": "3"}}', "non-empty string"),
        ('{"id": "x", "slots": {}}', "at least one slot"),
        ('{"id": "x", "slots": {"": "3"}}', "slot names"),
        ('{"id": "x", "slots": {"Age": ""}}', "non-empty strings"),
        ('{"id": "x", "slots": {"Age": []}}', "a string or a list"),
        ('{"id": "x", "slots": {"Age": 34}}', "a string or a list"),
        ('{"id": "x", "slots": {"Age": ["34", 3]}}', "non-empty strings"),
        ('{"id": "x", "slots": {"Pets": ["Cat", "cat"]}}', "twice"),
        ('{"id": "x", "slots": {"Age": "3", "age": "4"}}', "twice"),
        ('{"id": "x", "slots": {"Age": "3", "Age": "4"}}', "twice"),
        ('{"id": "a", "slots": {"Age": "3"}}', "line 1 already"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_nothing_is_loaded(tmp_path, line, expected):
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profiles(path)
    assert "people.jsonl:3" in str(caught.value)
    assert expected == "line" or expected in str(caught.value)


def test_a_missing_empty_or_binary_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match="there is none"):
        load_profiles(tmp_path / "nobody.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ProfileError, match=r"empty\.jsonl.*empty"):
        load_profiles(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="UTF-8"):
        load_profiles(tmp_path / "binary.jsonl")


def test_aliases_resolve_and_free_keys_do_not():
    assert len(VANILLA_SLOTS) == 10
    wanted = {"job": "Occupation", "Hobbies": "Interests", "lives in": "Location", "city": "Location"}
    wanted |= {"education": "Education Background", "family": "Family Background", "personality": "Personality Traits"}
    wanted |= {"relationship": "Marital Status"}
    assert {alias: canonical_slot(alias) for alias in wanted} == wanted
    assert canonical_slot("Shoe size") is None


def test_a_key_that_nothing_reads_is_refused_for_it_may_be_a_misspelt_one():
    whole = {"id": "p", "slots": {"Health": "asthma"}, "sensitive": {"Health": "asthma"}}
    assert Profile.from_mapping(whole).sensitive == {Point("Health", "asthma")}
    with pytest.raises(ProfileError, match=r"profile 'p': expected the keys 'id', 'slots' and 'sensitive'; got 'sensitve'"):
        Profile.from_mapping({"id": "p", "slots": whole["slots"], "sensitve": whole["sensitive"]})
