"""The conformance script lets ours pass and names what wrong ones get wrong."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlpa_agent.advantages import gae

SCRIPT = Path(__file__).parents[1] / "conformance_gae.py"


def script():
    spec = importlib.util.spec_from_file_location("conformance_gae", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def naive_row(rewards, values, mask, gamma, lam, after):
    """GAE over every position of a row, user tokens included: the mistake of several trainers."""
    out, trace, next_value = [0.0] * len(rewards), 0.0, after
    for t in reversed(range(len(rewards))):
        trace = rewards[t] + gamma * next_value - values[t] + gamma * lam * trace
        out[t], next_value = trace, values[t]
    return [a for a, own in zip(out, mask) if own]


def across_user_tokens(rewards_T, values_T, turn_T, *, gamma_token, gamma_turn, lam_token, lam_turn, bootstrap=0.0, user_tokens=3):
    """Builds the row, the values of user tokens carried on from the token before, and runs `naive_row` on it."""
    rewards, values, mask, turns = [], [], [], turn_T.tolist()
    for t, (reward, value) in enumerate(zip(rewards_T.tolist(), values_T.tolist())):
        if t and turns[t] != turns[t - 1]:
            rewards += [0.0] * user_tokens
            values += [value] * user_tokens
            mask += [False] * user_tokens
        rewards.append(reward)
        values.append(value)
        mask.append(True)
    advantages = torch.tensor(naive_row(rewards, values, mask, gamma_token, lam_token, bootstrap), dtype=torch.float64)
    return advantages, advantages + values_T


def cut_at_turns(rewards_T, values_T, turn_T, *, bootstrap=0.0, **k):
    """Every turn an episode of its own."""
    parts = [gae(rewards_T[turn_T == t], values_T[turn_T == t], turn_T[turn_T == t], **k) for t in turn_T.unique()]
    return tuple(torch.cat([part[i] for part in parts]) for i in range(2))


def always_bootstraps(rewards_T, values_T, turn_T, *, bootstrap=0.0, **k):
    """Takes the last value for what comes after the end."""
    return gae(rewards_T, values_T, turn_T, bootstrap=bootstrap or float(values_T[-1]), **k)


def boundaries_from_rewards(rewards_T, values_T, turn_T, **k):
    """A turn ends where something was paid."""
    ends = torch.cumsum((rewards_T != 0).long(), 0)
    return gae(rewards_T, values_T, torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]]), **k)


def returns_without_values(rewards_T, values_T, turn_T, **k):
    """Forgets the baseline in the returns."""
    advantages, _ = gae(rewards_T, values_T, turn_T, **k)
    return advantages, advantages


def steps_by_turn_number(rewards_T, values_T, turn_T, **k):
    """Takes a gap in turn numbers for so many steps."""
    gap = int((turn_T[1:] - turn_T[:-1]).max()) if len(turn_T) > 1 else 1
    return gae(rewards_T, values_T, turn_T, **(k | {"gamma_turn": k["gamma_turn"] ** max(gap, 1)}))


def test_ours_holds_every_claim_and_the_script_stands_alone():
    results, wrong = script().check(gae)
    assert all(holds for holds, _ in results.values())
    assert [name[:2] for name in results] == ["T1", "T2", "T3", "T4", "T5"]
    assert not wrong
    roots = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"torch", "numpy"}


@pytest.mark.parametrize(
    ("function", "failing", "named"),
    [
        (across_user_tokens, {"T1", "T2", "T3", "T4", "T5"}, "decays across user tokens"),
        (cut_at_turns, {"T1", "T2", "T3", "T4", "T5"}, "credit is cut at turns"),
        (always_bootstraps, {"T1", "T2", "T3", "T5"}, "bootstraps where the episode is over"),
        (boundaries_from_rewards, {"T1"}, "boundaries must come from turn numbers"),
        (returns_without_values, {"T1"}, "returns are not advantages"),
        (steps_by_turn_number, {"T3"}, "nothing that these probes know"),
    ],
)
def test_wrong_ones_are_named_by_what_they_get_wrong(function, failing, named):
    results, wrong = script().check(function)
    assert {name[:2] for name, (holds, _) in results.items() if not holds} == failing
    assert named in wrong[0]


def test_rows_are_told_how_many_user_tokens_to_hold():
    told = []

    def right(rewards_T, values_T, turn_T, *, user_tokens=0, **k):
        told.append(user_tokens)
        return gae(rewards_T, values_T, turn_T, **k)

    results, _ = script().check(right)
    assert results["T3 user tokens change nothing"][0]
    assert {0, 1, 50} <= set(told)


def test_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def cut(r, v, turn, *, gamma_token, gamma_turn, lam_token, lam_turn, bootstrap=0.0):\n"
        "    a = np.where(np.append(turn[1:] != turn[:-1], True), r - v, r - v)\n"
        "    return a, a + v\n"
    )
    command = [sys.executable, str(SCRIPT), "mine:cut", "--numpy", "--path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAILS  T1" in done.stdout
    assert "wrong: credit is cut at turns" in done.stdout
