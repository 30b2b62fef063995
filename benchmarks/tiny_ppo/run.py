"""PPO on the tiny preset, seed by seed, against two controls, on the 74 held-out users.

    python benchmarks/tiny_ppo/run.py [--minutes 28] [--seeds 0 1 2] [--runs runs/tiny_ppo] [--out benchmarks/results/tiny_ppo]

For every seed: the start before, the policy after (sampled and greedy), paired. Controls: the same run with rewards
shuffled across episodes (--shuffled), and supervised training from the same start on a teacher that is not weakened, for
as many minutes (--supervised). Finished parts are kept in RUNS and not run again; rlpa-SEED there is the one that
`benchmarks/paper/train.py --runs RUNS` trains in as many minutes, and the other way round.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish
from training import check_done, ensure_trained, read_done, write_done

from rlpa_agent.cli import policy_path
from rlpa_agent.config import PRESETS, SHIPPED, TrainConfig
from rlpa_agent.demo import score
from rlpa_agent.loading import faster_dtype
from rlpa_agent.mixture import STEADY, STRONG, dialogue
from rlpa_agent.policy import Policy
from rlpa_agent.start import SHARPNESS, sharpen
from rlpa_agent.warm_start import Progress, Schedule, Stage, warm_start
from rlpa_env.evaluate import results_table
from rlpa_env.results import paired_difference, paired_normalised, summarise

FIGURES = {"return": "return", "grounded_f1": "grounded_f1", "profile_f1": "f1", "response": "response", "al": "al"}
CALIBRATION = 16
"""Supervised steps whose time says how many fit into the minutes: twice the batches that are drawn and sorted at once."""


def ppo_config(folder: Path, minutes: float, seed: int, shuffled: bool = False) -> TrainConfig:
    """The preset, for as many minutes; the run named rlpa in `benchmarks/paper/train.py`, unless its rewards are shuffled."""
    preset = PRESETS["tiny"]
    rollout = dataclasses.replace(preset.rollout, shuffle_rewards=shuffled)
    quiet = dataclasses.replace(preset.eval, every=0)
    return dataclasses.replace(preset, out=folder, minutes=minutes, iterations=None, seed=seed, rollout=rollout, eval=quiet)


def train(folder: Path, minutes: float, seed: int, shuffled: bool) -> Path:
    """A PPO run, gone on with if it was stopped."""
    ensure_trained(ppo_config(folder, minutes, seed, shuffled), method="shuffled" if shuffled else "rlpa", seed=seed)
    return folder


def supervise(folder: Path, minutes: float, seed: int) -> Path:
    """The ceiling: the same start, taught for as long by a teacher that lists all it was told and replies well, after slips too.

    Everything as in the last pass of `rlpa_agent.start`, annealed to zero at the end of the minutes and sharpened as much.
    """
    settings = f"supervised, {minutes:g} minutes, seed {seed}"
    check_done(folder, settings)
    if read_done(folder) is None:
        teacher = dataclasses.replace(STRONG, slips=STEADY.slips)  # without slips it is lost after its own first mistake
        bf16 = faster_dtype(load_start().lm.config.hidden_size) == "bfloat16"

        def taught(steps: int) -> tuple[Policy, float]:
            policy, seconds = load_start(), 0.0

            def report(progress: Progress) -> None:
                nonlocal seconds
                seconds = progress.seconds

            stages = [Stage(partial(dialogue, turns=(2, 10), teacher=teacher), steps, 8)]
            schedule = Schedule(muon_lr=0.005, lr=3e-4, warmup_steps=20, decay_share=0.9)
            warm_start(policy, stages, schedule=schedule, seed=seed, bf16=bf16, report=report)
            return policy, seconds

        _, seconds = taught(CALIBRATION)
        steps = max(1, round(CALIBRATION * 60 * minutes / seconds))
        policy, seconds = taught(steps)
        sharpen(policy, SHARPNESS)
        policy.save(folder)
        write_done(folder, settings, {"method": "supervised", "seed": seed, "steps": steps, "minutes": round(seconds / 60, 2)})
    return folder


def load_start() -> Policy:
    """The shipped start."""
    return Policy.from_pretrained(policy_path(SHIPPED), reference=False)


def compared(records: dict[str, list[dict[str, Any]]], seed: int) -> dict[str, Any]:
    """Rows of everybody, and trained − start with intervals, sampled and greedy."""
    rows = {n: summarise(n, r, records["prior"], records["oracle"], (seed,)) for n, r in records.items()}
    gains: dict[str, Any] = {}
    for mode in ("", ", greedy"):
        after, before = records[f"trained{mode}"], records[f"start{mode}"]
        found = {name: paired_difference(after, before, key) for name, key in FIGURES.items()}
        found["normalised"] = paired_normalised(after, before, records["prior"], records["oracle"])
        gains[mode.strip(", ") or "sampled"] = {name: dict(zip(("gain", "lo", "hi"), triple, strict=True)) for name, triple in found.items()}
    return {"rows": list(rows.values()), "gains": gains}


def main() -> None:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=28.0)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--shuffled", action="store_true", help="also the control with shuffled rewards")
    parser.add_argument("--supervised", action="store_true", help="also the supervised ceiling")
    parser.add_argument("--users", type=int, default=74)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny_ppo"))
    parser.add_argument("--smoke", action="store_true", help="seconds of training, three users, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    args = parser.parse_args()
    minutes, users = (0.01, 3) if args.smoke else (args.minutes, args.users)
    parts = [(f"rlpa-{seed}", seed) for seed in args.seeds]
    parts += [("shuffled-0", 0)] * args.shuffled + [("supervised-0", 0)] * args.supervised
    figures: dict[str, Any] = {"minutes": minutes, "users": users}
    for name, seed in parts:
        folder = args.runs / name
        if name.startswith("supervised"):
            trained = supervise(folder, minutes, seed)
        else:
            trained = train(folder, minutes, seed, name.startswith("shuffled"))
        records = score(args.runs / f"{name}-eval", trained, "vanilla/test", users=users, seed=seed, quiet=True)
        figures[name] = compared(records, seed)
        Console(width=170).print(results_table(figures[name]["rows"], f"{name} · {minutes:g} minutes · {users} held-out users"))
    finish("tiny_ppo", figures, args.seeds, args.out)


if __name__ == "__main__":
    main()
