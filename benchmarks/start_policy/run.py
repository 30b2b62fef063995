"""What the start checkpoint of the tiny preset can do, and what it leaves to learn.

    python benchmarks/start_policy/run.py [--policy shipped] [--users 74] [--smoke] [--out benchmarks/results/start_policy]

Copying: at every turn the profile block is forced line by line ("- Slot:") and greedy decoding fills in the value, for
each point that a held-out user has told plainly so far. Format: share of well-formed completions at temperature 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_agent.cli import policy_path
from rlpa_agent.evaluate import PolicyAgent
from rlpa_agent.mixture import held
from rlpa_agent.policy import Policy
from rlpa_agent.warm_start import forced_copy
from rlpa_env import load_split
from rlpa_env.evaluate import Setting, collect

TURNS = 10


def copying(policy: Policy, users: int, seed: int) -> list[tuple[int, int]]:
    """(points written down, points told plainly) before each turn 1 … 10, over held-out users."""
    histories, told = [], []
    for i, person in enumerate(load_split("vanilla/test")[:users]):
        messages, before = held(person, np.random.default_rng([seed, i]), TURNS)
        for turn, points in enumerate(before):
            histories.append((turn, messages[: 2 * turn + 1]))
            told.append([tuple(point) for point in points])
    counts = [[0, 0] for _ in range(TURNS)]
    for start in range(0, len(histories), 64):
        part = slice(start, start + 64)
        for (turn, _), hits in zip(histories[part], forced_copy(policy, [h for _, h in histories[part]], told[part]), strict=True):
            counts[turn][0] += sum(hits)
            counts[turn][1] += len(hits)
    return [(good, total) for good, total in counts]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="shipped")
    parser.add_argument("--users", type=int, default=74)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="three users, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    users = 3 if args.smoke else args.users
    policy = Policy.from_pretrained(policy_path(args.policy), reference=False)
    counts = copying(policy, users, args.seed)
    table = Table("turn", "told plainly before it", "copied", title="forced copy, greedy, held-out users")
    for turn, (good, total) in enumerate(counts, 1):
        table.add_row(str(turn), str(total), f"{good / total:.1%}" if total else "–")
    Console(width=100).print(table)
    records = collect({"start": PolicyAgent(policy, seed=args.seed)}, Setting(users=users, seeds=(args.seed,)), quiet=True)["start"]
    turns = [turn for record in records for turn in record["turns"]]
    figures = {
        "policy": args.policy,
        "users": users,
        "parameters": sum(p.numel() for p in policy.lm.parameters()),
        "copied": [good / total if total else None for good, total in counts],
        "told": [total for _, total in counts],
        "well_formed": float(np.mean([not turn["parse_error"] for turn in turns])),
        "return": float(np.mean([sum(turn["reward"] for turn in record["turns"]) for record in records])),
        "grounded_f1": float(np.mean([turn["grounded_f1"] for turn in turns])),
        "ceiling": float(np.mean([turn["ceiling"] for turn in turns])),
        "response": float(np.mean([turn["response"] for turn in turns])),
    }
    finish("start_policy", figures, [args.seed], args.out)


if __name__ == "__main__":
    main()
