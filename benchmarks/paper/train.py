"""Train the policies that the tables of the paper name, all from the tiny start, a run for each seed.

    python benchmarks/paper/train.py [--methods rlpa sft …] [--seeds 0 1 2] [--minutes 28] [--runs runs/paper/policies] [--ship DIR]

    rlpa            PPO, preset tiny
    sft, dpo        `rlpa-agent sft tiny` and `dpo tiny`, on the same answers of the start
    profile-only    as rlpa, with nothing paid for replies
    response-only   as rlpa, with nothing paid for profiles
    official        as rlpa, but every turn is a sample of its own, answered four times; until it has learned from as many
                    action tokens as rlpa has of the same seed

NAME-SEED in RUNS holds a run and, once it is finished, `done`: what was trained, and how long it took. A stopped command goes
on where it was. Every policy is the last of its run: none is chosen on validation people, whose return holds both rewards.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import ship
from training import check_done, kept_iterations, read_done, run_ppo, settings_of, write_done

from rlpa_agent.baseline_config import BASELINES, DPO, SFT
from rlpa_agent.cli import environments, load_policy, policy_path
from rlpa_agent.config import PRESETS, TrainConfig
from rlpa_env import RLPAError

METHODS = ("rlpa", "sft", "dpo", "profile-only", "response-only", "official")  # in the order of training: official needs rlpa's tokens
SAMPLES = 4  # answers a turn in official mode, with a fourth of the dialogues: about as many action tokens an iteration
BASELINE_MINUTES = {"sft": 22.0, "dpo": 24.0}  # a guess, until one of this RUNS is finished and says better
OFFICIAL_SLOWER = 2.0  # times rlpa's minutes for as many tokens, as every answer reads its context anew; also a guess until then


@dataclass(frozen=True)
class Part:
    """One training run."""

    method: str
    seed: int
    runs: Path

    @property
    def name(self) -> str:
        """Of its folder, and of its line in the plan."""
        return f"{self.method}-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self.runs / self.name

    def done(self) -> dict[str, Any] | None:
        """What was trained; None if it is not finished."""
        return read_done(self.folder)


def ppo_config(part: Part, minutes: float, smoke: bool = False) -> TrainConfig:
    """The run of a method that is trained by PPO; ``minutes`` in all, for official as many tokens as rlpa."""
    config = dataclasses.replace(PRESETS["tiny"], seed=part.seed, out=part.folder, minutes=minutes, iterations=None)
    changes: dict[str, Any] = {"profile-only": {"response_weight": 0.0}, "response-only": {"profile_weight": 0.0}}.get(part.method, {})
    if smoke:
        changes |= {"dialogues": 4, "max_turns": 2, "max_new_tokens": 48}
        config = dataclasses.replace(config, minutes=None, iterations=1)
    dialogues = changes.get("dialogues", config.rollout.dialogues)
    if part.method == "official":
        changes |= {"samples": SAMPLES, "dialogues": dialogues // SAMPLES}
        tokens = budget(dataclasses.replace(part, method="rlpa"))
        config = dataclasses.replace(config, mode="official", minutes=None, iterations=None, action_tokens=tokens)
    elif part.method == "response-only":  # a price for the lines of a profile would be a reward for profiles too
        config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, line_cost=0.0))
    rollout = dataclasses.replace(config.rollout, **changes)
    return dataclasses.replace(config, rollout=rollout, eval=dataclasses.replace(config.eval, every=0))


def budget(rlpa: Part) -> int:
    """Action tokens that a finished rlpa run has learned from."""
    done = rlpa.done()
    if done is None:
        raise SystemExit(f"official-{rlpa.seed}: expected a finished {rlpa.name} beside it, whose tokens are its limit; train rlpa first.")
    return int(done["action_tokens"])


def baseline_config(part: Part, smoke: bool = False) -> SFT | DPO:
    """The run of sft or dpo; the answers of a seed are shared."""
    config = dataclasses.replace(BASELINES[part.method]["tiny"], seed=part.seed, out=part.folder, answers=part.runs / f"answers-{part.seed}")
    if not smoke:
        return config
    data = dataclasses.replace(config.data, dialogues=2, samples=2, max_turns=2)
    fit = dataclasses.replace(config.fit, steps=1, batch=2, micro_batch=1)
    return dataclasses.replace(config, data=data, fit=fit, **({"margin": 0.0} if isinstance(config, DPO) else {}))


def run_baseline(config: SFT | DPO) -> dict[str, Any]:
    """Collect what answers are missing, train; what `done` says of it."""
    from rlpa_agent import baselines
    from rlpa_agent.baseline_config import as_training
    from rlpa_agent.loading import flush_denormals

    if not (config.out / "last").exists():
        flush_denormals()
        training = as_training(config)
        report = print if sys.stderr.isatty() else None
        baselines.run_baseline(config, load_policy(training, policy_path(config.data.model)), environments(training.rollout), report)
    figures = json.loads((config.out / "baseline.json").read_text(encoding="utf-8"))
    return {
        "config_hash": settings_of(config),
        "minutes": round((figures["collect_seconds"] + figures["train_seconds"]) / 60, 2),
        "dialogues": figures["dialogues"],
        **{name: figures[name] for name in ("rows", "pairs", "answers", "steps") if name in figures},
        "loss": figures["last"]["loss"],
    }


def config_of(part: Part, args: argparse.Namespace) -> TrainConfig | SFT | DPO:
    """What a part trains."""
    return baseline_config(part, args.smoke) if part.method in BASELINES else ppo_config(part, args.minutes, args.smoke)


def check(part: Part, parts: Sequence[Part], args: argparse.Namespace) -> None:
    """A finished part must be what is asked for now, and what official is measured by must be there or come before it."""
    rlpa = dataclasses.replace(part, method="rlpa")
    if part.method == "official" and rlpa not in parts:
        budget(rlpa)
    if part.done():
        check_done(part.folder, settings_of(config_of(part, args)))


def minutes_to_do(part: Part, args: argparse.Namespace) -> float:
    """What is left of a part, in minutes: as measured on finished ones of this method where there are any."""
    if part.done():
        return 0.0
    measured = [done["minutes"] for seed in args.seeds if (done := dataclasses.replace(part, seed=seed).done())]
    guess = BASELINE_MINUTES.get(part.method, args.minutes * (OFFICIAL_SLOWER if part.method == "official" else 1.0))
    whole = sum(measured) / len(measured) if measured and (part.method in BASELINES or part.method == "official") else guess
    return max(0.0, whole - sum(line["seconds"] for line in kept_iterations(part.folder)) / 60)


def plan(parts: Sequence[Part], args: argparse.Namespace) -> list[str]:
    """What will be done, a line a part, and the hours."""
    lines, left = [], [minutes_to_do(part, args) for part in parts]
    for part, minutes in zip(parts, left, strict=True):
        kept = len(kept_iterations(part.folder))
        state = "finished" if part.done() else f"goes on after iteration {kept}" if kept else "to do"
        lines.append(f"{part.name:18} {state}" + ("" if part.done() else f", about {minutes:.0f} minutes"))
    lines.append(f"about {sum(left) / 60:.1f} hours in all, one after the other; what is stopped goes on with the same command")
    return lines


def train(part: Part, args: argparse.Namespace) -> None:
    """One part to its end, and its line."""
    check(part, (), args)  # once more: what official is measured by may have come since
    if part.done():
        return
    config = config_of(part, args)
    began = time.perf_counter()
    told = run_ppo(config) if isinstance(config, TrainConfig) else run_baseline(config)
    told = {"method": part.method, "seed": part.seed, **told}
    write_done(part.folder, settings_of(config), told)
    shown = ", ".join(f"{name} {told[name]}" for name in ("iterations", "dialogues", "action_tokens", "steps", "return", "loss", "health") if name in told)
    print(f"{part.name}: finished in {(time.perf_counter() - began) / 60:.1f} minutes: {shown}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what will be done, do it, ship it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="which policies; all if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=28.0, help="of rlpa, profile-only and response-only, each seed")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper/policies"), help="folder of the runs; finished ones are not run again")
    parser.add_argument("--ship", type=Path, help="also write the policies there, without what only training needs")
    parser.add_argument("--smoke", action="store_true", help="one iteration of a few short dialogues each, to see that it runs")
    args = parser.parse_args(arguments)
    if not args.minutes > 0 or len(set(args.seeds)) != len(args.seeds):
        parser.error(f"--minutes and --seeds: expected more than 0 minutes and distinct seeds; got {args.minutes} and {args.seeds}")
    parts = [Part(method, seed, args.runs) for method in METHODS if method in args.methods for seed in args.seeds]
    for part in parts:
        check(part, parts, args)
    print("\n".join(plan(parts, args)), flush=True)
    try:
        for part in parts:
            train(part, args)
        if args.ship:
            for part in parts:
                told = part.done()
                assert told is not None
                print(ship.ship(part.folder, args.ship / part.name, told, users=1 if args.smoke else ship.USERS), flush=True)
    except RLPAError as error:
        raise SystemExit(f"train: {error}") from error


if __name__ == "__main__":
    main()
