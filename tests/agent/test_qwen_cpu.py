"""benchmarks/qwen_cpu, on the tiny start in place of a Qwen: three stages, each kept, and what it leaves."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def run(folder, *more):
    command = [sys.executable, "benchmarks/qwen_cpu/run.py", "--smoke", "--runs", str(folder / "runs"), "--out", str(folder / "out"), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_goes_on_where_it_was_stopped_and_leaves_figures_curve_and_dialogues(tmp_path):
    told = json.loads(run(tmp_path, "--train-only").splitlines()[-1])
    assert (told["iterations"], told["dialogues"]) == (1, 2)
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/last/**/*.safetensors")}
    assert len(kept) >= 2  # the start's adapters and the policy's

    printed = run(tmp_path)
    assert "warm start" not in printed
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    figures = json.loads(printed.splitlines()[-1])
    assert figures == json.loads((tmp_path / "out/qwen_cpu.json").read_text())["figures"]
    assert figures["warm_start"]["dialogues"] == 4
    rows = {row["agent"]: row for row in figures["rows"]}
    assert set(rows) == {"as it is", "start", "trained"}
    assert figures["gains"]["trained - as it is"]["return"][0] == rows["trained"]["return"] - rows["as it is"]["return"]
    assert f"start: {rows['start']['malformed']:.1%} of answers malformed" in printed
    assert (tmp_path / "out/learning.png").stat().st_size > 10_000

    episodes = [json.loads(line) for path in (tmp_path / "runs").glob("eval-*/episodes.jsonl") for line in path.read_text().splitlines()]
    page = (tmp_path / "out/dialogues.md").read_text(encoding="utf-8")
    for record in episodes:
        if record["agent"] != "as it is":
            section = page.split(f"## {record['profile']}, {record['agent']}\n", 1)[1].split("\n## ")[0]
            points = [value for value in record["truth"].values() for value in ([value] if isinstance(value, str) else value)]
            assert section.startswith(f"\n{len(points)} points to find.\n")
            for message in record["messages"]:
                assert message["role"] == "system" or message["content"].rstrip() in section
            assert section.count("**Turn") == len(record["turns"])


def test_where_its_logp_come_from_is_measured_once(tmp_path, monkeypatch):
    """Else a run that goes on may be another one, as a stopwatch says."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # which the script adds to
    made = runpy.run_path(str(ROOT / "benchmarks/qwen_cpu/run.py"))["qwen_config"]
    hashes = set()
    for faster in (torch.float32, "auto"):
        monkeypatch.setitem(made.__globals__, "frozen_dtype", lambda device, faster=faster: faster)
        config = made(tmp_path, "model", "people", 1.0)
        assert config.ppo.old_logp == "sampled"
        hashes.add(config.hash())
        (tmp_path / "config.json").write_text(json.dumps(config.as_dict()))
    assert len(hashes) == 1
    assert made(tmp_path / "other", "model", "people", 1.0).ppo.old_logp == "scored"
