"""The demo from end to end, in small: what it leaves behind and the shape of its last line."""

from __future__ import annotations

import dataclasses
import json
import re
import signal

import pytest

from rlpa_agent import demo
from rlpa_agent.config import PRESETS
from rlpa_env import load_profiles

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
    gains = json.loads((out / "gains.json").read_text())
    assert list(gains) == ["trained − start", "trained, greedy − start, greedy"]
    for name in ("return", "normalised"):
        gain, low, high = gains["trained − start"][name]
        assert low <= gain <= high
        assert gain == pytest.approx(rows[2][name] - rows[0][name])
    for name in ("episodes.jsonl", "learning.png", "run/metrics.jsonl", "run/last/policy/model.safetensors"):
        assert (out / name).stat().st_size > 0
    episodes = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 3 * len(rows)
    assert all(len(row["al"]) == 10 for row in rows)


def test_a_demo_that_is_interrupted_says_where_its_policy_is(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_training", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as caught:
        demo.main(out=tmp_path / "demo")
    assert caught.value.code == 130
    assert str(tmp_path / "demo" / "run") in capsys.readouterr().err


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
