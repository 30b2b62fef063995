"""Credit across turns: the tiny preset with γ = 0 between turns and with γ > 0, all else equal, on the 74 held-out people.

    python benchmarks/turn_credit/run.py [--gammas 0 1] [--seeds 0 1] [--iterations 28] [--runs runs/turn_credit]
        [--out benchmarks/results/turn_credit] [--smoke]

With γ = 0 a question is worth what its own turn pays; with γ = 1 also the profile lines and replies that its answer makes
possible. Each policy is trained for as many iterations and decoded at the training temperature; differences are paired
by person. "Told" is the share of the profile that the person had told by then, which asking well raises. Finished policies
are kept in RUNS and not trained again, so two commands with one γ each can train side by side before one with both.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish
from training import ensure_trained

from rlpa_agent.cli import policy_path
from rlpa_agent.config import PRESETS, TrainConfig
from rlpa_agent.evaluate import policy_agent
from rlpa_env.evaluate import Setting, collect
from rlpa_env.results import paired_difference, summarise

FIGURES = {"return": "return", "grounded_f1": "grounded_f1", "response": "response", "told": "ceiling"}


def config_of(folder: Path, gamma: float, seed: int, iterations: int, dialogues: int | None = None) -> TrainConfig:
    """The preset with another γ between turns, for so many iterations."""
    preset = PRESETS["tiny"]
    rollout = preset.rollout if dialogues is None else dataclasses.replace(preset.rollout, dialogues=dialogues, max_turns=2)
    ppo, quiet = dataclasses.replace(preset.ppo, gamma_turn=gamma), dataclasses.replace(preset.eval, every=0)
    return dataclasses.replace(preset, out=folder, iterations=iterations, minutes=None, seed=seed, rollout=rollout, ppo=ppo, eval=quiet)


def compared(records: dict[str, list[dict[str, Any]]], base: str) -> dict[str, Any]:
    """Everybody's difference to ``base``, paired by person: figure -> (mean, low, high)."""
    found: dict[str, Any] = {}
    for name, own in records.items():
        if name != base:
            found[name] = {figure: paired_difference(own, records[base], key) for figure, key in FIGURES.items()}
    return found


def main() -> None:
    """Train, play, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.0, 1.0], help="the first is what the others are compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--iterations", type=int, default=28)
    parser.add_argument("--users", type=int, default=74)
    parser.add_argument("--runs", type=Path, default=Path("runs/turn_credit"))
    parser.add_argument("--smoke", action="store_true", help="one small iteration, three people, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    iterations, users = (1, 3) if args.smoke else (args.iterations, args.users)
    names = [f"gamma {gamma:g}" for gamma in args.gammas]
    figures: dict[str, Any] = {"iterations": iterations, "users": users, "seeds": {}}
    pooled: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    table = Table("seed", "policy", *FIGURES, title=f"{iterations} iterations of the tiny preset, {users} held-out people")
    for seed in args.seeds:
        agents, runs = {}, {}
        for name, gamma in zip(names, args.gammas, strict=True):
            folder = args.runs / f"{name.replace(' ', '-')}-{seed}"
            told = ensure_trained(config_of(folder, gamma, seed, iterations, 2 if args.smoke else None), method=name, seed=seed)
            runs[name] = {key: told[key] for key in ("iterations", "dialogues", "action_tokens", "minutes", "commit")}
            agents[name] = policy_agent(policy_path(str(folder)), seed=seed)
        records = collect(agents, Setting("RLPA-v0", "vanilla/test", users, (seed,)), args.runs / f"eval-{seed}")
        rows = {name: summarise(name, own, None, None, (seed,)) for name, own in records.items()}
        differences = compared(records, names[0])
        figures["seeds"][str(seed)] = {"runs": runs, "rows": list(rows.values()), "differences": differences}
        for name, own in records.items():
            pooled[name] += own
            row = rows[name]
            table.add_row(str(seed), name, *(f"{row[key]:.3f}" for key in ("return", "profile_grounded_f1", "response", "ceiling")))
        for name, found in differences.items():
            table.add_row("", f"{name} − {names[0]}", *("{:+.3f} [{:+.3f}, {:+.3f}]".format(*found[figure]) for figure in FIGURES))
    figures["pooled"] = compared(pooled, names[0])
    for name, found in figures["pooled"].items():
        table.add_row("all", f"{name} − {names[0]}", *("{:+.3f} [{:+.3f}, {:+.3f}]".format(*found[figure]) for figure in FIGURES))
    Console(width=170).print(table)
    finish("turn_credit", figures, args.seeds, args.out)


if __name__ == "__main__":
    main()
