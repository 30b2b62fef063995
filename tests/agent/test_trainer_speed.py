"""The speed benchmark runs, compares like with like, and its exponents are exponents."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "trainer_speed"


@pytest.fixture(scope="module")
def speed():
    before = list(sys.path)
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    spec = importlib.util.spec_from_file_location("trainer_speed_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_parts_without_a_peer(speed, monkeypatch, capsys, tmp_path):
    parts = ["--parts", "growth", "rows", "prefill"]
    monkeypatch.setattr(sys, "argv", ["run.py", "--smoke", "--threads", "1", *parts, "--out", str(tmp_path)])
    speed.main()
    torch.set_flush_denormal(False)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    size = speed.SMOKE
    # A dialogue's tokens are those of its turns and no more: what was fed once is not fed again.
    growth = figures["growth"]
    assert growth["turns"] == [2, 4]
    assert growth["rollout_tokens"]["exponent"] < 1.15  # reading all anew each turn would give 1.7
    two, four = growth["update_tokens"]["median"]
    import workload

    glue = workload.policy_from(workload.build_model(tmp_path / "model", size, 0), size).chat.glue_tokens()
    assert four - two == 2 * 2 * 2 * (size.dialogue_tokens + size.user_tokens + glue)  # epochs, dialogues, turns
    rows = figures["rows"]
    assert rows["per_turn"]["fed"] > rows["whole"]["fed"]
    assert rows["whole_to_per_turn"] == pytest.approx(rows["per_turn"]["median"] / rows["whole"]["median"])
    assert figures["prefill"]["ours_to_generate"] > 0
    record = json.loads((tmp_path / "trainer_speed.json").read_text())
    assert record["figures"] == figures
    assert record["seeds"] == [0]


def test_both_sides_sample_exactly_so_many_tokens(speed, tmp_path):
    import workload
    from peer import reprefilled

    size = speed.SMOKE
    policy = workload.policy_from(workload.build_model(tmp_path / "model", size, 0), size)
    openings = [policy.chat.opening([("user", workload.said(i, 0))]).tolist() for i in range(3)]
    assert len({len(ids) for ids in openings}) == 1
    done, mask = reprefilled(policy.lm, policy.chat, openings, 3, 5)
    assert [sum(sampled) for sampled in mask] == [15, 15, 15]
    ours = workload.Ours(tmp_path / "model", size, algo="grpo", turns=3, tokens=5)
    trajectories, _ = ours.trainer.gather()
    assert {len(turn.action_ids) for t in trajectories for turn in t.turns} == {5}
    # The same dialogue by either way is equally long, glue included.
    last = trajectories[0].turns[-1]
    assert len(last.context_ids) + 5 == len(openings[0]) + len(done[0])
    ours.trainer.policy.banned_V[list(policy.chat.end_ids)] = False
    ours.trainer.policy.banned_V[:-2] = True  # answers that end at once
    with pytest.raises(RuntimeError, match="expected 60 sampled tokens"):
        ours()


def test_an_exponent_is_a_slope(speed):
    assert speed.exponent([5, 10, 20, 40], [3 * n**1.5 for n in (5, 10, 20, 40)]) == pytest.approx(1.5)


@pytest.mark.skipif(find_spec("trl") is None, reason="needs the extra baselines")
def test_trl_trains_the_same_model_beside_ours():
    command = [sys.executable, str(FOLDER / "run.py"), "--smoke", "--threads", "1", "--parts", "single", "multi"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for part in ("single", "multi"):
        assert all(len(figures[part][name]["all"]) == 1 for name in ("grpo", "ppo", "trl"))
        assert figures[part]["grpo_to_trl"] > 0
