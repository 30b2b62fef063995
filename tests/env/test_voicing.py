"""What a text tells of its speaker: words and not letters, of oneself and not of others, stated and not denied or asked."""

import numpy as np
import pytest
from test_llm import HELLO, user_with

from rlpa_env import LLMUser, Point, Profile, load_split
from rlpa_env.disclosure import facts_of
from rlpa_env.voice import hint_lines, plain_lines
from rlpa_env.voicing import names, tells

TOLD = [
    ("34", "I'm 34."),
    ("34", "I'm thirty-four."),
    ("34", "I'm thirty-four years old, can you believe it?"),
    ("thirty-four", "34 since May."),
    ("baker", "I'm a baker."),
    ("baker", "Well, I bake for a living."),
    ("nurse", "Guess what, I'm a nurse, can you believe it?"),
    ("nurse", "Did you know I'm a nurse?"),
    ("nurse", "I'm a nurse, you know?"),
    ("nurse", "I'm a nurse and I never sleep."),
    ("nurse", "I'm a nurse, not a doctor."),
    ("nurse", "My sister is a pilot, but I'm a nurse."),
    ("two older brothers", "My two older brothers spoil me."),
    ("no pets", "I don't have any pets."),
    ("i do not drink coffee", "I don't drink coffee at all."),
    ("i grew up on a small farm in ohio", "I grew up on a little farm in Ohio."),
    ("used to be a teacher", "I used to be a teacher."),
    ("C++", "These days I write C++."),
    ("护士", "我是护士。"),
    ("chess", "我平时下chess。"),
]
NOT_TOLD = [
    ("art", "Let's start the party."),
    ("34", "My house is from 1934."),
    ("34", "I'm not thirty-four."),
    ("34", "I'm thirty."),
    ("34", "My boss is thirty-four."),
    ("baker", "My brother is a baker."),
    ("baker", "I'm not a baker."),
    ("baker", "I was a baker once."),
    ("baker", "Are you a baker?"),
    ("baker", "I'm curious, do you know a baker?"),
    ("baker", "What should I buy at the baker?"),
    ("hiking", "Any good hiking near you?"),
    ("no pets", "I have pets."),
    ("i grew up on a small farm in ohio", "I grew up in a big town."),
    ("yes", "Yes, a lovely day."),
    ("护士", "我是老师。"),
]


@pytest.mark.parametrize(("value", "text"), TOLD)
def test_told(value, text):
    assert tells(text, Point("", value))


@pytest.mark.parametrize(("value", "text"), NOT_TOLD)
def test_not_told(value, text):
    assert not tells(text, Point("", value))


def test_a_value_that_means_nothing_alone_is_told_beside_its_slot():
    assert tells("My car? Yes.", Point("Car", "yes"), ("My car? yes.",))
    assert tells("A car, yes.", Point("Car", "yes"))
    assert not tells("Yes, lovely.", Point("Car", "yes"))


def test_the_words_of_a_value_stand_in_a_text_whoever_they_are_said_of():
    assert names("My brother is a baker.", "baker")
    assert names("Please forget that I'm thirty-four.", "34")
    assert not names("I was at the bakery in 1934.", "34")
    assert not names("Let's start the party.", "art")


@pytest.mark.parametrize(("split", "share"), [("vanilla/val", 0.98), ("extended/val", 0.85)])
def test_every_authored_wording_tells_its_point_and_no_hint_does(split, share):
    facts = {fact.point: fact for person in load_split(split)[:60] for fact in facts_of(person)}.values()
    told = [tells(line, fact.point) for fact in facts for line in plain_lines(fact)]
    assert sum(told) / len(told) > share  # the rest reads like denial or memory: "I can't stand slow walkers"
    for fact in facts:
        assert all(tells(f"Ha. {line} You?", fact.point, plain_lines(fact)) for line in plain_lines(fact))
        assert not any(tells(line, fact.point, plain_lines(fact)) for line in hint_lines(fact))


@pytest.mark.parametrize(
    ("slot", "value", "text"),
    [
        ("Fear", "wasps", "I'm really scared of wasps."),
        ("Pet Peeve", "slow walkers", "Honestly, I cannot stand slow walkers."),
        ("Childhood Home", "windmill", "I was raised in a windmill."),
        ("Dream", "tiny bookshop", "One day I'd love to open a tiny bookshop."),
    ],
)
def test_fears_and_memories_are_told_in_other_words_too(slot, value, text):
    fact = facts_of(Profile("p", {slot: value, "Age": "34"}))[0]
    assert fact.value
    assert tells(text, fact.point, plain_lines(fact))
    assert not tells(f"Do you know {value}?", fact.point, plain_lines(fact))


@pytest.mark.parametrize(("value", "text"), TOLD)
def test_what_would_count_as_told_is_a_leak_before_its_time(value, text):
    person = Profile("p", {"Hobby": "polo", "Other Information": value})
    user: LLMUser = user_with(lambda *_: text, person)
    user.reset(person, np.random.default_rng(0))
    turn = user.reply(HELLO, "Hm.")  # asks for nothing, so nothing is in the draft
    assert tells(text, Point("Other Information", value))
    assert user.counts["leak"] == user.counts["kept faults"] == 1
    assert turn.told == ()
    assert text not in turn.message
