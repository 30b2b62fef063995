"""Damaged files of people and senseless arguments, at random: a named error that says where; never another exception."""

from __future__ import annotations

import json

import gymnasium as gym
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlpa_env import ProfileError, RLPAEnv, RLPAError, load_profiles

PERSON = {
    "id": "a",
    "points": [{"slot": "Age", "value": "34"}, {"slot": "Interests", "value": "chess", "sensitive": True}],
}
LINES = "".join(json.dumps({**PERSON, "id": name}) + "\n" for name in "abc").encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_as_people_or_named(path):
    try:
        people = load_profiles(path)
    except ProfileError as error:
        assert str(path) in str(error)  # noqa: PT017 -- whole files are read
        return None
    assert people
    assert all(point.value for person in people for point in person.points)
    return people


@often
@given(at=st.integers(0, len(LINES) - 1), cut=st.integers(0, 9), put=st.binary(max_size=9))
def test_bytes_of_a_profile_file_that_are_lost_or_put_in(tmp_path, at, cut, put):
    path = tmp_path / "people.jsonl"
    path.write_bytes(LINES[:at] + put + LINES[at + cut :])
    read_as_people_or_named(path)


@often
@given(key=st.sampled_from(["id", "points", "personality", "other"]), value=JSON)
def test_fields_of_a_profile_that_hold_something_else(tmp_path, key, value):
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps({**PERSON, key: value}) + "\n")
    people = read_as_people_or_named(path)
    if people is not None:
        with gym.make("RLPA-v0", profiles=people, max_turns=2) as env:
            env.reset(seed=0)
            env.step("<profile>\n</profile>\n<response>\nHello!\n</response>")


ARGUMENTS = (
    "split",
    "user",
    "matcher",
    "judge",
    "judge_sees",
    "credit",
    "cues",
    "style",
    "shift_turn",
    "sessions",
    "consent",
    "privacy_weight",
)
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
