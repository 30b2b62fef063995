"""The demo from end to end, in small: what it leaves behind and the shape of its last line."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpa_agent import demo, mixture
from rlpa_agent.config import PRESETS
from rlpa_env import load_profiles, load_split, parse_action
from rlpa_env.text import words
from rlpa_env.world import world

LAST = r"return -?\d+\.\d+ -> -?\d+\.\d+ \| grounded F1 \d\.\d+ -> \d\.\d+ \| response \d\.\d+ -> \d\.\d+ \| normalised -?\d+\.\d+ -> -?\d+\.\d+ \(3 held-out users\)"
PEOPLE = [
    "She is a 41-year-old tax adviser who enjoys pottery, night walks, and baking. She lives in Ghent. She has two parrots.",
    "He is a 23-year-old apprentice who loves chess. He works as a bicycle courier. He's engaged and has a dog named Flint.",
    "She is a 60-year-old retired pilot. She is divorced with one son. She has a degree in physics. She plays the organ.",
]


@pytest.fixture
def small(monkeypatch):
    preset = PRESETS["tiny"]
    rollout = dataclasses.replace(preset.rollout, dialogues=2, concurrent=2, max_new_tokens=12)
    watch = dataclasses.replace(preset.eval, every=0)
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(preset, rollout=rollout, eval=watch))


def test_demo_leaves_results_and_ends_with_one_plain_line(small, tmp_path, capsys):
    out = tmp_path / "demo"
    demo.main(out=out, minutes=0.001, users=3)
    last = capsys.readouterr().out.rstrip("\n").split("\n")[-1]
    assert re.fullmatch(LAST, last)
    rows = json.loads((out / "results.json").read_text())
    assert [row["agent"] for row in rows] == ["start", "start, greedy", "trained", "trained, greedy", *demo.BESIDE]
    for name in ("episodes.jsonl", "learning.png", "run/metrics.jsonl", "run/last/policy/model.safetensors"):
        assert (out / name).stat().st_size > 0
    episodes = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 3 * len(rows)
    assert all(len(row["al"]) == 10 for row in rows)


def test_other_peoples_profiles_are_split_without_overlap(small, tmp_path):
    aloe = tmp_path / "aloe"
    aloe.mkdir()
    (aloe / "profile.jsonl").write_text("".join(json.dumps(PEOPLE[i % 3]) + "\n" for i in range(60)))
    (aloe / "personality.jsonl").write_text(json.dumps("She is witty. She is calm.") + "\n")
    config, test = demo.plan(tmp_path / "out", 1.0, 0, aloe)
    parts = [{p.id for p in load_profiles(path)} for path in (config.rollout.split, config.eval.split, test)]
    assert [len(part) for part in parts] == [43, 5, 12]
    assert len(set.union(*parts)) == 60
    assert config.minutes == 1.0


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
