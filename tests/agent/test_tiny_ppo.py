"""The picture of benchmarks/tiny_ppo, from records made by hand."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

PICTURE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/tiny_ppo/picture.py"))


def turns(*pairs):
    return [{"response": response, "grounded_f1": f1} for response, f1 in pairs]


def test_who_has_left_counts_zero():
    records = [{"limit": 3, "turns": turns((1, 0), (1, 0.5), (0, 0.25))}, {"limit": 3, "turns": turns((1, 0))}]
    assert PICTURE["by_turn"](records, "response").tolist() == [[1, 1, 0], [1, 0, 0]]
    assert PICTURE["by_turn"](records, "grounded_f1").tolist() == [[0, 0.5, 0.25], [0, 0, 0]]


def test_every_seed_is_drawn(tmp_path):
    for seed in (0, 1):
        run, scored = tmp_path / f"rlpa-{seed}", tmp_path / f"rlpa-{seed}-eval"
        run.mkdir()
        scored.mkdir()
        lines = [{"dialogues": 8 * i, "reward/response": 0.1 * i, "profile/grounded_f1": 0.05 * i} for i in range(1, 4)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        records = [{"agent": name, "limit": 2, "turns": turns((1, 0), (seed, 0.5))} for name in ("start", "trained", "attentive", "script")]
        (scored / "episodes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for seeds in ([0], [0, 1]):
        PICTURE["draw"](tmp_path, seeds, tmp_path / f"{len(seeds)}.png")
    one, both = ((tmp_path / f"{n}.png").read_bytes() for n in (1, 2))
    assert one[:8] == b"\x89PNG\r\n\x1a\n"
    assert one != both
