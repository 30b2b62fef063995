"""benchmarks/qwen_cpu, on the tiny start in place of a Qwen: three stages, each kept, and what it leaves."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlpa_agent.config import PRESETS

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
    assert set(rows) == {"as it is", "start", "trained", "script", "attentive"}
    assert figures["gains"]["trained - as it is"]["return"][0] == pytest.approx(rows["trained"]["return"] - rows["as it is"]["return"])
    assert f"start: {rows['start']['malformed']:.1%} of answers malformed" in printed
    assert (tmp_path / "out/learning.png").stat().st_size > 10_000

    episodes = [json.loads(line) for path in (tmp_path / "runs").glob("eval-*/episodes.jsonl") for line in path.read_text().splitlines()]
    page = (tmp_path / "out/dialogues.md").read_text(encoding="utf-8")
    script = runpy.run_path(str(ROOT / "benchmarks/qwen_cpu/run.py"))
    for record in episodes:
        if record["agent"] in ("start", "trained"):
            assert record["identity"]["system_prompt"] == script["PROMPT"].format(10)
            section = page.split(f"## {record['profile']}, {record['agent']}\n", 1)[1].split("\n## ")[0]
            points = [value for value in record["truth"].values() for value in ([value] if isinstance(value, str) else value)]
            assert section.startswith(f"\n{len(points)} points to find.\n")
            for message in record["messages"]:
                assert message["role"] == "system" or message["content"].rstrip() in section
            assert section.count("**Turn") == len(record["turns"])


def test_the_page_says_what_it_changes_in_the_preset(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = runpy.run_path(str(ROOT / "benchmarks/qwen_cpu/run.py"))
    preset, made = (config.as_dict() for config in (PRESETS["qwen2.5-0.5b"], script["qwen_config"](tmp_path, "a/model", "people.jsonl", 60.0)))
    changed = {
        name: (preset[group][name], value) for group in ("model", "rollout", "ppo", "optim", "eval") for name, value in made[group].items() if value != preset[group][name]
    }
    for name in ("path", "split", "old_logp"):  # what is trained, with whom; the last is measured
        changed.pop(name, None)
    assert changed.pop("max_turns")[1] == 8
    assert changed == {
        "dialogues": (32, 16), "concurrent": (32, 16), "max_new_tokens": (128, 96), "epochs": (2, 1), "minibatches": (4, 8), "critic_warmup": (1, 0),
        "max_kl": (10.0, 40.0), "policy_lr": (1e-4, 3e-4), "gradient_checkpointing": (True, False), "every": (10, 0),
    }  # fmt: skip
    page = (ROOT / "docs" / "agent.md").read_text(encoding="utf-8").replace("\n ", "")
    for said in (
        "16 dialogues an iteration for 32", "8 turns for 10", "96 tokens an answer for 128", "1 epoch of 8 minibatches for 2 of 4",
        "a policy rate of 3e-4 for 1e-4", "no iteration of the critic alone", "`--ppo.max-kl` 40 for 10", "no gradient checkpointing", "without validation",
    ):  # fmt: skip
        assert said in page


def test_another_model_of_that_name_or_other_people_are_not_what_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = runpy.run_path(str(ROOT / "benchmarks/qwen_cpu/run.py"))
    for place, weights in (("one", b"1"), ("other", b"2")):
        (tmp_path / place / "qwen").mkdir(parents=True)
        (tmp_path / place / "qwen" / "model.safetensors").write_bytes(weights)
    start, models = tmp_path / "start", [str(tmp_path / place / "qwen") for place in ("one", "other")]
    start.mkdir()
    script["write_done"](start, f"qwen {script['fingerprint'](models[0])}, 24 steps", {})
    assert script["ensure_started"](start, models[0], 24) == start / "last"
    with pytest.raises(SystemExit, match="settings asked for"):
        script["ensure_started"](start, models[1], 24)
    people = tmp_path / "train.jsonl"
    config, read = script["qwen_config"](tmp_path / "run", "model", str(people), 1.0), []
    for words in ("Ann", "Ben"):
        people.write_text(words)
        read.append(script["settings_of"](config, [script["fingerprint"](str(people))]))
    (tmp_path / "run").mkdir()
    script["write_done"](tmp_path / "run", read[0], {"minutes": 1})
    with pytest.raises(SystemExit, match="settings asked for"):
        script["ensure_trained"](config, [script["fingerprint"](str(people))])
    for folder, do in ((start, lambda: script["ensure_started"](start, models[1], 24)), (tmp_path / "run", lambda: script["ensure_trained"](config, ["other"]))):
        (folder / "done").unlink()  # stopped before its end
        script["check_begun"](folder, ["first"])
        with pytest.raises(SystemExit, match="its run began with"):
            do()
    script["write_done"](start, f"qwen {script['fingerprint'](models[0])}, 24 steps", {})
    told, known = [], script["main"].__globals__
    monkeypatch.setitem(known, "split_people", lambda *_: [people] * 3)
    monkeypatch.setitem(known, "ensure_trained", lambda config, files: told.append(files))
    monkeypatch.setattr(sys, "argv", ["run.py", "--model", models[0], "--aloe", "x", "--runs", str(tmp_path), "--train-only"])
    script["main"]()
    assert told == [tuple(script["fingerprint"](path) for path in (models[0], str(people)))]


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
