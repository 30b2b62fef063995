"""What the start was taught: the form, lists as full as the teacher, random values in authored sentences, nothing held out."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpa_agent import mixture
from rlpa_env import load_split, parse_action
from rlpa_env.text import normalise, words
from rlpa_env.world import world


def test_the_mixture_never_says_a_held_out_value():
    held_out = {
        word
        for spec in world().slots.values()
        for value in spec.values
        if "train" not in value.splits
        for word in words(value.value)
    }
    assert not held_out & set(mixture.vocabulary())
    assert len(mixture.vocabulary()) > 500


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_teacher_dialogues_keep_the_form_and_the_strong_teacher_lists_what_it_was_told(seed):
    person = load_split("vanilla/train")[seed % 3821]
    for teacher in (mixture.WEAK, mixture.STRONG):
        messages, before = mixture.held(person, np.random.default_rng(seed), 8, teacher)
        assert [role for role, _ in messages] == ["user", "assistant"] * (len(messages) // 2)
        actions = [parse_action(text) for role, text in messages if role == "assistant"]
        assert all(action.error == "" for action in actions)
        for action, told in zip(actions, before, strict=True):
            if teacher is mixture.STRONG:
                assert set(action.profile) == set(told) <= set(person.points)


def test_the_weak_teacher_lists_about_half_of_it():
    listed = known = 0
    for seed in range(40):
        messages, before = mixture.held(load_split("vanilla/train")[seed], np.random.default_rng(seed), 10)
        texts = [text for role, text in messages if role == "assistant"]
        listed += sum(len(set(parse_action(text).profile) & set(told)) for text, told in zip(texts, before, strict=True))
        known += sum(map(len, before))
    assert 0.4 < listed / known < 0.7


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_what_a_pupil_missed_stays_missed_until_the_teacher_speaks(seed):
    rng = np.random.default_rng(seed)
    pupil, told = mixture.Pupil(rng), load_split("vanilla/train")[seed % 3821].points
    said = [{"role": "user", "content": "Hello"}]
    pupil.hears("", told)
    noted = set(pupil.block) & set(told)
    for _ in range(5):
        pupil.hears("", told)
        assert set(parse_action(pupil.slip(said)).profile) & set(told) <= noted
    assert set(pupil.block) & set(told) == noted
    pupil.corrected(told)
    assert pupil.block == list(told)


def test_lists_after_slips_are_as_full_as_the_teacher_and_slips_are_not():
    lacking = badly = 0
    teacher = dataclasses.replace(mixture.STRONG, slips=0.95)
    for seed in range(30):
        pairs, before = mixture.held(load_split("vanilla/train")[seed], np.random.default_rng(seed), 10, teacher)
        turns: list[list[tuple[str, str]]] = []
        for role, text in pairs:
            turns.append([]) if role == "user" else turns[-1].append((role, text))
        for told, parts in zip(before, turns, strict=False):  # turns after the last that is taught are cut off
            action = parse_action("".join(text for _, text in parts))
            if parts[-1][0] == "slip":
                lacking += not set(told) <= set(action.profile)
                continue
            if len(parts) == 1:
                assert set(action.profile) == set(told)
                continue
            begun, made_up = (parse_action(f"<profile>{text.removeprefix('<profile>')}" + "</profile>\n<response>\nx\n</response>" * (role == "slip")).profile for role, text in parts)
            assert set(made_up) == set(told) - set(begun)  # what is missing and nothing else, whatever went wrong before
            badly += bool(set(told) & set(begun))
    assert lacking > 10 < badly


def test_a_disguised_user_says_random_values_in_authored_sentences():
    replaced = 0
    for seed in range(30):
        person = load_split("vanilla/train")[seed]
        user = mixture.Disguised()
        user.reset(person, np.random.default_rng(seed))
        assert [fact.point for fact in user.facts] == list(user.profile.points)
        for fact, (slot, value) in zip(user.facts, person.points, strict=True):
            assert fact.point.slot == slot
            if fact.point.value == value:
                continue
            replaced += 1
            for line in mixture.plain_lines(fact):
                assert fact.point.value.casefold() in line.casefold()
            for before, after in zip(world().find(slot, value).explicit, fact.value.explicit, strict=True):
                assert len(after) - len(before) == len(fact.point.value) - len(value)
    assert replaced > 150


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_drill_lists_everything_told_so_far_and_no_distractor(seed):
    messages = mixture.drill(np.random.default_rng(seed))
    assert [role for role, _ in messages] == ["user", "assistant"] * (len(messages) // 2)
    said, listed = "", set()
    for role, text in messages:
        if role == "user":
            said += " " + normalise(text)
            continue
        action = parse_action(text)
        assert action.error == ""
        assert listed <= set(action.profile)  # equal when two people share the point that was told
        listed = set(action.profile)
        assert all(normalise(value) in said for _, value in listed)
    assert listed


def test_practice_says_no_held_out_value():
    values = [value for spec in world().slots.values() for value in spec.values]
    trained = " | ".join(normalise(value.value) for value in values if "train" in value.splits)
    names = {normalise(value.value) for value in values if "train" not in value.splits}
    # Single words ("grumpy", "cello") may turn up in a hint or in another value; a name of two words may not.
    held_out = {name for name in names if " " in name and name not in trained}
    assert len(held_out) > 50
    rng = np.random.default_rng(0)
    for _ in range(60):
        for role, text in (*mixture.drill(rng), *mixture.dialogue(rng)):
            found = [value for value in held_out if f" {value} " in f" {normalise(text)} "]
            assert not found, (role, text)
