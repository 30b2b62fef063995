"""The study of how much of a policy gradient is signal."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlpa_agent import cli

STUDY = Path(__file__).parents[2] / "benchmarks" / "gradient_noise" / "run.py"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # which the script adds to
    return runpy.run_path(str(STUDY))


def test_the_cosines_are_those_of_the_means_and_of_a_batch(study):
    """Units g_i = m + noise: sure is |m| / √(|m|² + σ²d/32), and a mean at 60° from the unbiased one has cosine ½ with it."""
    rng, units, size, sigma = np.random.default_rng(0), 600, 400, 0.5
    true, mine = np.zeros(size), np.zeros(size)
    true[0], mine[:2] = 2.0, (1.0, 3**0.5)
    noise = sigma * rng.standard_normal((units, size))  # the same dialogues for both: shared, and of no weight
    trues, own = true + noise, mine + noise
    found = study["with_errors"](own @ own.T, own @ trues.T, trues @ trues.T)
    sure = 2.0 / np.sqrt(4.0 + sigma**2 * size / 32)
    assert found["sure"] == pytest.approx(sure, abs=0.02)
    assert found["unbiased"] == pytest.approx(0.5, abs=0.05)
    assert found["useful"] == pytest.approx(0.5 * sure, abs=0.03)
    assert 0 < found["useful_se"] < 0.03
    nothing = rng.standard_normal((200, size))
    found = study["with_errors"](nothing @ nothing.T, nothing @ trues[:200].T, trues[:200] @ trues[:200].T)
    assert abs(found["useful"]) < 0.1
    assert found["sure"] < 0.2  # 0.37 if each dialogue were compared with itself too


def test_replies_are_the_last_segments_of_turns(study):
    class Made:
        chain_A = torch.tensor([0, 0, 0, 0, 0, 1, 1])
        turn_A = torch.tensor([0, 0, 0, 1, 1, 0, 0])
        segment_A = torch.tensor([0, 1, 2, 3, 4, 0, 1])

    assert study["replies"](Made).tolist() == [False, False, True, False, True, False, True]


def test_it_runs_on_a_training_run(tmp_path, monkeypatch, study):
    run = tmp_path / "run"
    short = ["--rollout.dialogues", "2", "--rollout.concurrent", "2", "--rollout.max-turns", "2", "--rollout.max-new-tokens", "48"]
    cli.main(["train", "tiny", "--out", str(run), *short, "--eval.every", "0", "--iterations", "1"])

    def measured(*more):
        monkeypatch.setattr(sys, "argv", [str(STUDY), "--policy", str(run), "--smoke", "--out", str(tmp_path), *more])
        runpy.run_path(str(STUDY), run_name="__main__")
        return json.loads((tmp_path / "gradient_noise.json").read_text())["figures"]

    figures, free = measured(), measured("--line-cost", "0")
    assert free["rows"]["all, 1"] != figures["rows"]["all, 1"]  # these dialogues list something, which has its price
    assert (figures["iteration"], figures["line_cost"]) == (1, 0.1)
    assert len(figures["rows"]) == 15
    assert all(figures["rows"][f"{part}, 1"]["unbiased"] in (pytest.approx(1.0), 0.0) for part in ("all", "profile", "reply"))
