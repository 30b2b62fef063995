"""Damaged files of people and senseless arguments, at random: a named error that says where; never another exception."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlpa_env import ProfileError, RLPAEnv, RLPAError, load_profiles

PERSON = {"id": "a", "slots": {"Age": "34", "Interests": ["chess", "rowing"], "Location": "Oslo"}, "sensitive": {"Location": "Oslo"}}
LINES = "".join(json.dumps({**PERSON, "id": name}) + "\n" for name in "abc").encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path):
    """The people of a file, or None and that the error names it."""
    try:
        return load_profiles(path)
    except ProfileError as error:
        assert str(path) in str(error)  # noqa: PT017 -- whole files are read, see below
        return None


def test_the_undamaged_file_is_read(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_bytes(LINES)
    assert [(person.id, len(person.points)) for person in load_profiles(path)] == [("a", 4), ("b", 4), ("c", 4)]


def test_the_field_that_is_wrong_is_named(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps({**PERSON, "sensitive": ["Location"]}))
    with pytest.raises(ProfileError, match=r"people.jsonl:1: profile 'a': expected 'sensitive' to be an object"):
        load_profiles(path)


@often
@given(at=st.integers(0, len(LINES) - 1), cut=st.integers(0, 9), put=st.binary(max_size=9))
def test_bytes_of_a_profile_file_that_are_lost_or_put_in(tmp_path, at, cut, put):
    path = tmp_path / "people.jsonl"
    path.write_bytes(LINES[:at] + put + LINES[at + cut :])
    people = read(path)
    assert people is None or (people and all(point.slot and point.value for person in people for point in person.points))


@often
@given(key=st.sampled_from(["id", "slots", "sensitive", "other"]), value=JSON)
def test_fields_of_a_profile_that_hold_something_else(tmp_path, key, value):
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps({**PERSON, key: value}) + "\n")
    people = read(path)
    if people is None:
        return
    with gym.make("RLPA-v0", split=str(path), max_turns=2) as env:
        env.reset(seed=0)
        assert env.unwrapped.profile.points == people[0].points
        assert env.step("<profile>\n</profile>\n<response>\nHello!\n</response>")[1] >= 0.0


ARGUMENTS = ("split", "user", "matcher", "judge", "judge_sees", "credit", "cues", "style", "shift_turn", "sessions", "consent", "privacy_weight")
ARGUMENTS += ("profile_weight", "response_weight", "on_error", "llm", "embedding_model", "max_turns")


@often
@given(name=st.sampled_from(ARGUMENTS), value=JSON)
def test_arguments_that_hold_something_else(name, value):
    try:
        env = RLPAEnv(**{name: value})
    except RLPAError as error:
        assert name.partition("_")[0] in str(error), error  # noqa: PT017 -- what is right is never an error
    else:
        env.close()
