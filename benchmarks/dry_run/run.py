"""Does `rlpa-agent train PRESET --dry-run` predict what an iteration then takes?

    python benchmarks/dry_run/run.py [--preset tiny] [--model PATH] [--iterations 5] [--out benchmarks/results/dry_run] [--smoke]

Predicts, holds iterations whose steps are too small to change what the policy says, predicts again, and trains: each in a process of
its own, whose memory is nobody else's. The first iteration is left out (the critic learns alone), and the epochs always run to their
end (`target_kl` off), since the prediction counts all of them. The error is that of the first prediction, the one that a user sees,
against the median iteration of the policy it was made for; the second says what other load did. A policy that learns to say more
takes longer, which no prediction can know: how much stands beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import finish

from rlpa_agent.cli import build_trainer
from rlpa_agent.config import PRESETS, TrainConfig
from rlpa_agent.dry_run import Forecast, predict

T = TypeVar("T")


def foretold(config: TrainConfig, budget: float) -> Forecast:
    """What the dry run says after so many seconds of trying."""
    return predict(build_trainer(config, quiet=True), budget)


def held(config: TrainConfig, iterations: int, learns: bool) -> list[dict[str, Any]]:
    """Figures of the iterations behind the first. Unless the policy ``learns`` its steps are as costly and change nothing."""
    if not learns:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, policy_lr=1e-30))
    trainer = build_trainer(config, quiet=True)
    return [trainer.one_iteration() for _ in range(iterations)][1:]


def apart(task: Callable[..., T], *arguments: Any) -> T:
    """The result of a task in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        return other.submit(task, *arguments).result()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS))
    parser.add_argument("--model", help="a folder or id in place of the preset's")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--smoke", action="store_true", help="four dialogues of three turns, two iterations")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    model = dataclasses.replace(preset.model, path=args.model or preset.model.path)
    rollout = preset.rollout
    if args.smoke:
        rollout = dataclasses.replace(rollout, dialogues=4, concurrent=4, max_turns=3, max_new_tokens=40)
    ppo = dataclasses.replace(preset.ppo, target_kl=None)
    watch = dataclasses.replace(preset.eval, every=0)
    config = dataclasses.replace(preset, model=model, rollout=rollout, ppo=ppo, eval=watch, seed=args.seed)
    budget = 3.0 if args.smoke else 20.0
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, out=Path(folder) / "run")
        before = apart(foretold, config, budget)
        iterations = 2 if args.smoke else args.iterations
        taken = apart(held, config, iterations, False)
        after = apart(foretold, config, budget)
        learning = apart(held, config, iterations, True)
    keys = {
        "seconds": ("seconds", "seconds an iteration"),
        "rollout_seconds": ("rollout_seconds", "seconds of rollout"),
        "update_seconds": ("update_seconds", "seconds of update"),
        "action_tokens": ("action_tokens", "tokens sampled"),
        "memory_mb": ("peak_memory_mb", "peak memory, MB"),
    }
    figures: dict[str, object] = {"preset": args.preset, "iterations": len(taken)}
    table = Table(title=f"{args.preset}: predicted and measured")
    for column in ("", "predicted before", "predicted after", "measured, median", "error", "as it learns"):
        table.add_column(column, justify="left" if not column else "right")
    for name, (measured, label) in keys.items():
        guesses = [float(getattr(forecast, name)) for forecast in (before, after)]
        each, later = ([float(line[measured]) for line in lines] for lines in (taken, learning))
        real, error = median(each), guesses[0] / median(each) - 1
        figures[name] = {
            "predicted": [round(g, 2) for g in guesses],
            "measured": [round(r, 2) for r in each],
            "error": round(error, 3),
            "learning": [round(r, 2) for r in later],
        }
        table.add_row(label, *(f"{value:,.1f}" for value in (*guesses, real)), f"{error:+.0%}", f"{median(later):,.1f}")
    figures["calibration_seconds"] = [round(forecast.calibration_seconds, 1) for forecast in (before, after)]
    figures["turns_seen"] = before.turns_seen
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    finish("dry_run", figures, [args.seed], args.out)


if __name__ == "__main__":
    main()
