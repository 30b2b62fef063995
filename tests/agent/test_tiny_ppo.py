"""The picture of benchmarks/tiny_ppo, from records made by hand."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

PICTURE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/tiny_ppo/picture.py"))


def turns(*pairs):
    return [{"response": response, "grounded_f1": f1, "valid": True} for response, f1 in pairs]


def record(person, limit, *pairs, **more):
    return {"profile": person, "limit": limit, "stop_reason": "", "turns": turns(*pairs)} | more


def test_who_has_left_counts_zero():
    records = [record("a", 3, (1, 0), (1, 0.5), (0, 0.25)), record("b", 3, (1, 0))]
    assert PICTURE["line_of"](records, "response")[0].tolist() == [1, 0.5, 0]
    assert PICTURE["line_of"](records, "grounded_f1")[0].tolist() == [0, 0.25, 0.125]


def test_every_gain_has_a_paired_interval_the_normalised_one_too():
    compared = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/tiny_ppo/run.py"))["compared"]
    figures = ("reward", "profile", "f1", "grounded_f1", "precision", "recall", "ceiling", "response", "al")

    def played(level):
        told = [{"valid": True, "tokens": 1, "parse_error": ""} | dict.fromkeys(figures, level * person) for person in (1, 3)]
        more = {"seed": 0, "env": "RLPA-v0", "split": "vanilla/test", "left": False, "error": ""}
        return [{"profile": str(i), "limit": 1, "stop_reason": "", "turns": [turn]} | more for i, turn in enumerate(told)]

    levels = {"prior": 0.0, "oracle": 1.0, "start": 0.25, "trained": 0.5, "start, greedy": 0.25, "trained, greedy": 0.75}
    gains = compared({name: played(level) for name, level in levels.items()}, 0)["gains"]
    assert gains["sampled"]["normalised"] == pytest.approx({"gain": 0.25, "lo": 0.25, "hi": 0.25})
    assert gains["greedy"]["normalised"] == pytest.approx({"gain": 0.5, "lo": 0.5, "hi": 0.5})
    assert gains["sampled"]["return"] == pytest.approx({"gain": 0.5, "lo": 0.25, "hi": 0.75})


def test_three_dialogues_with_one_person_are_not_three_people():
    people = [record(str(i), 1, (i % 2, 0)) for i in range(50)]
    (mean, band), (pooled, narrower) = (PICTURE["line_of"](people * seeds, "response") for seeds in (1, 3))
    assert mean.tolist() == pooled.tolist() == [0.5]
    assert narrower.tolist() == band.tolist() == pytest.approx([1.96 * 0.5 / np.sqrt(50)])


def test_a_message_may_hold_any_line_separator(tmp_path):
    (tmp_path / "episodes.jsonl").write_text(json.dumps({"said": "Hi.\u2028Ho\x85."}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert PICTURE["lines_of"](tmp_path / "episodes.jsonl") == [{"said": "Hi.\u2028Ho\x85."}]


def test_every_seed_is_drawn(tmp_path):
    for seed in (0, 1):
        run, scored = tmp_path / f"rlpa-{seed}", tmp_path / f"rlpa-{seed}-eval"
        run.mkdir()
        scored.mkdir()
        lines = [{"dialogues": 8 * i, "reward/response": 0.1 * i, "profile/grounded_f1": 0.05 * i} for i in range(1, 4)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        records = [record("a", 2, (1, 0), (seed, 0.5), agent=name) for name in ("start", "trained", "attentive", "script")]
        (scored / "episodes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for seeds in ([0], [0, 1]):
        PICTURE["draw"](tmp_path, seeds, tmp_path / f"{len(seeds)}.png")
    one, both = ((tmp_path / f"{n}.png").read_bytes() for n in (1, 2))
    assert one[:8] == b"\x89PNG\r\n\x1a\n"
    assert one != both
