"""The audit's reader finds what is wrong in a message, and only that; the scripted user has none of it."""

import importlib.util
import sys
from pathlib import Path

import pytest

from rlpa_env import Point, Profile

FOLDER = Path(__file__).parents[2] / "benchmarks" / "simulator_audit"


@pytest.fixture(scope="module")
def audit():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("simulator_audit_run", FOLDER / "run.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


SLOTS = {"Age": "34", "Occupation": "nurse", "Interests": ["chess", "bread baking"], "Location": "Lisbon", "Marital Status": "single", "Gender": "man"}
NURSE = Profile("nurse", SLOTS)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("I'm a nurse, nights mostly. My cousin is a locksmith.", {"nurse"}),
        ("My sister is the nurse in the family.", set()),
        ("I used to be a nurse. A friend of mine is mad about chess.", set()),
        ("Do you play chess?", set()),
        ("I'm in Lisbon now... I wish.", set()),
        ("The yellow tram rattles past my window.", {"Lisbon"}),
        ("That yellow tram, it rattles past the window of mine.", {"Lisbon"}),
        ("I wait for the green man.", set()),
        ("I'm 34, and a man at that, as a man I like chess.", {"34", "man", "chess"}),
        ("I love baking bread, and I'm thirty.", {"bread baking"}),
    ],
)
def test_what_a_message_tells_of_its_speaker(audit, message, told):
    assert {point.value for point in audit.read(message, NURSE).told} == told


@pytest.mark.parametrize(
    ("message", "beyond"),
    [
        ("I'm a locksmith.", ["Occupation: locksmith"]),
        ("I live in Oslo.", ["Location: oslo"]),
        ("I'm 45 already.", ["Age: 45"]),
        ("My wife is out tonight.", ["Marital Status: wife"]),
        ("My sister is a locksmith.", ["Family Background: sister"]),
        ("I've always loved stargazing.", ["Interests: stargazing"]),
        ("My neighbour is a locksmith. I lived in Oslo once. I wish I had time for stargazing.", []),
        ("I'm a nurse from Lisbon and I'm single.", []),
        ("Just sitting around, really. The kettle is on.", []),
    ],
)
def test_what_goes_beyond_the_profile(audit, message, beyond):
    assert [what.split(" | ")[0] for what in audit.read(message, NURSE).beyond] == beyond


def test_faults_are_counted(audit):
    found = audit.Audit()
    nurse, chess = Point("Occupation", "nurse"), Point("Interests", "chess")
    text = "I'm a nurse. I play chess. I'm a locksmith. Four sentences."
    found.message(text, audit.read(text, NURSE), known=set(), revealed={nurse}, budget=1)
    assert found.counts["messages over the budget"] == 1
    assert found.counts["points told before their time"] == 1
    assert found.counts["statements beyond the profile"] == 1
    assert found.counts["messages longer than three sentences"] == 1
    assert found.examples["points told before their time"][0].startswith(f"Interests: {chess.value}")
    found.message("I'm a nurse.", audit.read("I'm a nurse.", NURSE), known={nurse}, revealed={nurse}, budget=1)
    assert found.counts["points told before their time"] == 1
    found.opening("Hello, I'm a nurse.", NURSE)
    assert found.counts["openings that reveal"] == 1


def test_the_scripted_user_keeps_its_promises(audit):
    found = audit.scripted(30)
    kinds = ("openings that reveal", "statements beyond the profile", "messages over the budget", "points told before their time",
             "points counted that the text does not show", "messages longer than three sentences")  # fmt: skip
    assert {kind: found[kind] for kind in kinds} == dict.fromkeys(kinds, 0)
    assert found["share of fact-like sentences about others"] >= 0.25
    assert found["messages"] > 250
