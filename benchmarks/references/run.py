"""Reference agents in order, and how much the scripted user gives away to whom.

    python benchmarks/references/run.py [--users 74] [--smoke] [--out benchmarks/results/references]

Plays every reference agent on the same held-out users and seeds, checks that each trick is below `attentive` with its
paired 95 % interval clear of 0, and prints the calibration of the user: share revealed by turn 10 for small talk, ten
fixed questions, attentive and oracle.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_env.agents import AGENTS
from rlpa_env.evaluate import Setting, collect, results_table
from rlpa_env.results import by_user, paired_difference, per_turn, returns, summarise

CALIBRATION = {"prior": "small talk", "script": "ten fixed questions", "attentive": "attentive", "oracle": "oracle"}


def play(users: int, seeds: tuple[int, ...], out: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Every reference agent on the same episodes."""
    setting = Setting("RLPA-v0", "vanilla/test", users, seeds)
    return collect(dict.fromkeys(AGENTS), setting, out)


def main() -> None:
    """Play, print both tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=74)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--smoke", action="store_true", help="three users, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    parser.add_argument("--episodes", type=Path, help="folder for episodes.jsonl, resumed if it is there")
    args = parser.parse_args()
    users = 3 if args.smoke else args.users
    records = play(users, tuple(args.seeds), args.episodes)
    rows = [summarise(n, r, records["prior"], records["oracle"], args.seeds) for n, r in records.items()]
    for row in rows:  # so that the board can pair its ranks
        row["returns_by_user"] = np.round(by_user(records[row["agent"]], returns(records[row["agent"]])), 6).tolist()
    console = Console(width=170)
    console.print(results_table(rows, f"RLPA-v0 · vanilla/test · {users} users"))
    order = Table("agent", "attentive − agent", "95 % interval", "below attentive", title="paired difference of return")
    figures: dict[str, Any] = {"users": users, "agents": {row["agent"]: row for row in rows}, "below_attentive": {}}
    for name in AGENTS[2:]:
        gap, low, high = paired_difference(records["attentive"], records[name])
        figures["below_attentive"][name] = {"gap": gap, "lo": low, "hi": high}
        order.add_row(name, f"{gap:.2f}", f"{low:.2f} … {high:.2f}", "yes" if low > 0 else "NO")
    console.print(order)
    table = Table("agent", "as", "revealed by turn 10", "normalised", title="calibration of the scripted user")
    figures["revealed"] = {}
    for name, label in CALIBRATION.items():
        share = sum(record["turns"][-1]["revealed"] for record in records[name]) / len(records[name])
        figures["revealed"][name] = share
        row = next(row for row in rows if row["agent"] == name)
        table.add_row(name, label, f"{share:.3f}", f"{row['normalised']:.2f}")
    console.print(table)
    figures["pass_rate"] = {
        name: {c: float(per_turn(r, c).mean()) for c in ("naturalness", "relevance", "logic", "engagement", "informativeness")}
        for name, r in records.items()
    }
    finish("references", figures, args.seeds, args.out)


if __name__ == "__main__":
    main()
