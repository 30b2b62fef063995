"""How clearly each way of paying says that one more line of the profile was right, or wrong.

    python benchmarks/credit_noise/run.py [--policy shipped] [--dialogues 64] [--seed 0] [--out benchmarks/results/credit_noise]

The policy's forks: after a line of the profile it goes on with another (`-`) or ends the block (`</`), each with a
probability between 5 and 95 %. The same dialogues are paid in each way; a credit is good if it tells forks that led to a
right line from those that led to a wrong one, and lines from the end. Printed are differences of the mean return of the forking
token, the mean of its turn taken off, over their standard error: what 64 dialogues say, in units of their noise. No critic takes part.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_agent.advantages import estimate_advantages
from rlpa_agent.batch import Batch, make_batch
from rlpa_agent.cli import environments, policy_path
from rlpa_agent.config import PRESETS
from rlpa_agent.credit import profile_payments
from rlpa_agent.policy import Policy
from rlpa_agent.rollout import collect
from rlpa_agent.trajectory import Trajectory

WAYS = [(paid, gamma) for gamma in (1.0, 0.3, 0.0) for paid in ("turn", "block", "line")]
OPEN = (0.05, 0.95)  # probability of a token at a fork


def paid_batch(policy: Policy, dialogues: list[Trajectory], paid: str, turns: int) -> Batch:
    """The dialogues with the profile paid at the turn's end, the block's, or line by line."""
    return make_batch(dialogues, max_turns=turns, payments=profile_payments(policy.chat, paid))


def returns(batch: Batch, gamma_turn: float) -> np.ndarray:
    """Discounted return [A] of every token less the mean return of its turn."""
    discounts = {"gamma_token": 1.0, "gamma_turn": gamma_turn, "lam_token": 1.0, "lam_turn": 1.0}
    raw, _ = estimate_advantages(
        "reinforce", batch.reward_A, batch.segment_A, batch.starts_C, values_A=None, bootstrap_C=None,
        group_C=batch.group_C, baseline="episode", **discounts,
    )  # fmt: skip
    for turn in batch.turn_A.unique():
        here = batch.turn_A == turn
        raw[here] -= raw[here].mean()
    return raw.numpy()


def forks(policy: Policy, dialogues: list[Trajectory], turns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens at forks, as places in the chains: those that began a right line, a wrong or repeated one, or ended the block."""
    batch = paid_batch(policy, dialogues, "line", turns)
    ids = np.array([batch.rows[row][place] for row, place in zip(batch.row_A.tolist(), batch.pos_A.tolist(), strict=True)])
    segment, chance = batch.segment_A.numpy(), batch.logp_old_A.exp().numpy()
    earned = np.zeros(len(ids))
    start = 0
    for end in [*(np.flatnonzero(np.diff(segment) != 0) + 1), len(ids)]:  # a line is a segment
        earned[start:end] = batch.reward_A[start:end].sum()
        start = end
    is_open = (chance > OPEN[0]) & (chance < OPEN[1])
    more, stop = (is_open & (ids == policy.tokenizer.convert_tokens_to_ids(text)) for text in ("-", "</"))
    return np.flatnonzero(more & (earned > 0)), np.flatnonzero(more & (earned <= 0)), np.flatnonzero(stop)


def clearness(values: np.ndarray, one: np.ndarray, other: np.ndarray) -> float | None:
    """Difference of two means over its standard error; None for fewer than two of either."""
    if min(len(one), len(other)) < 2:
        return None
    error = np.sqrt(sum(values[part].var(ddof=1) / len(part) for part in (one, other)))
    return float((values[one].mean() - values[other].mean()) / max(error, 1e-9))


def main() -> None:
    """Hold the dialogues, pay them in every way, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="shipped", help="the start, a run, or a policy folder")
    parser.add_argument("--dialogues", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="four dialogues of four turns, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    rollout = PRESETS["tiny"].rollout
    count, turns = (4, 4) if args.smoke else (args.dialogues, rollout.max_turns)
    policy = Policy.from_pretrained(policy_path(args.policy), reference=False)
    make = environments(replace(rollout, max_turns=turns))
    dialogues = collect(
        policy, [make() for _ in range(min(count, rollout.concurrent))], seeds=np.random.default_rng(args.seed).integers(2**31, size=count).tolist(),
        sample_seed=args.seed, temperature=rollout.temperature, max_new_tokens=rollout.max_new_tokens, max_turns=turns,
    )  # fmt: skip
    right, wrong, stop = forks(policy, dialogues, turns)
    figures: dict[str, Any] = {"dialogues": count, "forks": {"right": len(right), "wrong": len(wrong), "stop": len(stop)}, "ways": {}}
    table = Table("profile paid at", "γ between segments", "a line − the end", "a right line − a wrong one", title=f"difference / noise, {count} dialogues")
    for paid, gamma in WAYS:
        values = returns(paid_batch(policy, dialogues, paid, turns), gamma)
        found = {"line": clearness(values, np.union1d(right, wrong), stop), "right": clearness(values, right, wrong)}
        figures["ways"][f"{paid}, {gamma:g}"] = found
        table.add_row(paid, f"{gamma:g}", *("–" if value is None else f"{value:.1f}" for value in found.values()))
    Console().print(table)
    finish("credit_noise", figures, [args.seed], args.out)


if __name__ == "__main__":
    main()
