"""Cross-simulator matrix: train on users who all talk in one style, evaluate on each of the others.

    python benchmarks/simulator_matrix/run.py [--styles plain terse chatty evasive impatient] [--minutes 25] [--seeds 0] [--users 74]

Rows are who was trained on what; start and attentive (or --model NAME=SOURCE …) were trained on none. Columns are the users:
each style, `own` (each person as their personality suggests), and with --base-url and --model-name the scripted user worded by that
model. Cells are returns from 0 (`prior`) to 1 (`oracle`) with their 95 % interval over seeds and people, sampled, on
vanilla/test. Trainings and dialogues are kept in RUNS; a stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "paper"))
import claims as say
import study
from training import check_done, ensure_trained, read_done, settings_of

from rlpa_agent.config import PRESETS, TrainConfig
from rlpa_env import RLPAError
from rlpa_env.disclosure import STYLES
from rlpa_env.results import returns

OWN = "own"
SCALE = ("prior", "oracle")


def config_of(style: str, seed: int, args: argparse.Namespace) -> TrainConfig:
    """PPO of the preset tiny with people of one style; the last policy counts, so nothing is validated."""
    preset = PRESETS["tiny"]
    changes: dict[str, Any] = {"dialogues": 4, "max_turns": 2, "max_new_tokens": 48} if args.smoke else {}
    return dataclasses.replace(
        preset,
        rollout=dataclasses.replace(preset.rollout, style=style, **changes),
        eval=dataclasses.replace(preset.eval, every=0),
        minutes=None if args.smoke else args.minutes,
        iterations=1 if args.smoke else None,
        seed=seed,
        out=args.runs / f"{style}-{seed}",
    )


def train(args: argparse.Namespace) -> dict[str, str]:
    """Every style with every seed, as far as they are not finished; name of a row -> its source."""
    configs = [config_of(style, seed, args) for style in args.styles for seed in args.seeds]
    for config in configs:
        check_done(config.out, settings_of(config))
    left = [config for config in configs if read_done(config.out) is None]
    print(f"{len(left)} of {len(configs)} trainings to do, about {len(left) * args.minutes / 60:.1f} hours one after the other", flush=True)
    for config in left:
        told = ensure_trained(config, style=config.rollout.style, seed=config.seed)
        print(f"{config.out.name}: finished, {told['iterations']} iterations, return {told['return']}, {told['health']}", flush=True)
    return {f"on {style}": f"{args.runs}/{style}-{{seed}}" for style in args.styles}


def users_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Column -> options of its environment."""
    found: dict[str, dict[str, Any]] = {style: {"style": style} for style in args.styles} | {OWN: {}}
    if args.base_url:
        found[f"worded by {args.model_name}"] = {"user": "llm", "llm": {"base_url": args.base_url, "model": args.model_name}}
    return found


def normalised(mean_R: np.ndarray, row: int, names: list[str]) -> float:
    """A row's mean return between those of prior (0) and oracle (1)."""
    low, high = (mean_R[names.index(name)] for name in SCALE)
    return float((mean_R[row] - low) / (high - low))


def home_and_away(mean_CR: np.ndarray, names: list[str], styles: list[str], columns: list[int]) -> float:
    """Mean over columns (indices of styles): the policy trained on that style − the mean of those trained on others."""
    gaps = []
    for c in columns:
        value = {style: normalised(mean_CR[c], names.index(f"on {style}"), names) for style in styles}
        gaps.append(value[styles[c]] - np.mean([value[style] for style in styles if style != styles[c]]))
    return float(np.mean(gaps))


def compared(by_column: Mapping[str, Mapping[str, list[study.Records]]], styles: list[str]) -> dict[str, Any]:
    """Cells and what training at home is worth, with intervals. Axes: S seeds, U users, C columns, R rows.

    A dialogue that a failure cut short for one row is left out of all in its column.
    """
    names = list(next(iter(by_column.values())))
    values_SUCR = np.stack(
        [np.stack([np.stack([returns(records) for records in rows[name]]) for name in names], axis=-1) for rows in by_column.values()], axis=2
    )
    values_SUCR = np.where(np.isnan(values_SUCR).any(axis=-1, keepdims=True), np.nan, values_SUCR)
    cells = {
        column: {name: say.estimate(values_SUCR[:, :, c], partial(normalised, row=r, names=names)) for r, name in enumerate(names) if name not in SCALE}
        for c, column in enumerate(by_column)
    }
    gaps = {}
    if len(styles) > 1:
        wanted = {style: [c] for c, style in enumerate(styles)} | {"all": list(range(len(styles)))}
        gaps = {name: say.estimate(values_SUCR, partial(home_and_away, names=names, styles=styles, columns=at)) for name, at in wanted.items()}
    return {"cells": cells, "home_minus_away": gaps}


def show(found: Mapping[str, Any], args: argparse.Namespace) -> None:
    """The matrix, and below each style what having been trained on it is worth."""
    cells, gaps = found["cells"], found["home_minus_away"]
    shown = Table("trained", *cells, title=f"normalised return, {args.users} people, seeds {args.seeds}; columns: whom it talks with")
    for name in next(iter(cells.values())):
        shown.add_row(name, *(f"[bold]{cells[c][name].text(2)}[/]" if name == f"on {c}" else cells[c][name].text(2) for c in cells))
    if gaps:
        shown.add_section()
        shown.add_row("home − away", *(gaps[c].text(2) if c in gaps else "" for c in cells))
    Console(width=say.WIDTH).print(shown)
    if gaps:
        print(f"home − away, all styles: {gaps['all'].value:+.3f} [{gaps['all'].low:+.3f}, {gaps['all'].high:+.3f}]")


def options() -> argparse.ArgumentParser:
    """Those of the paper's benchmarks, styles and minutes."""
    parser = study.parser(__doc__, ("start=tiny", "attentive=attentive"), trained=("rlpa",))
    parser.add_argument("--styles", nargs="+", choices=list(STYLES), default=list(STYLES), help="to train and evaluate on")
    parser.add_argument("--minutes", type=float, default=25.0, help="of training, each style and seed")
    parser.set_defaults(seeds=[0], runs=Path("runs/simulator_matrix"))
    return parser


def main() -> None:
    """Train, hold the dialogues, print, write."""
    parser = options()
    args = study.read(parser)
    if not args.minutes > 0 or len(set(args.styles)) != len(args.styles):
        parser.error(f"--minutes and --styles: expected more than 0 minutes and distinct styles; got {args.minutes} and {args.styles}")
    if args.smoke:
        args.styles = args.styles[:2]
    try:
        args.contestants = args.contestants | train(args) | {name: name for name in SCALE}
        by_column = {}
        shorter = {"max_turns": 3, "max_episode_steps": 3} if args.smoke else {}
        for column, kwargs in users_of(args).items():
            by_column[column] = study.hold(args, study.VANILLA, **kwargs, **shorter)
            print(f"with {column}: all dialogues held", flush=True)
    except RLPAError as error:
        raise SystemExit(f"simulator_matrix: {error}") from error
    found = compared(by_column, args.styles)
    show(found, args)
    plain = {part: {name: _plain(value) for name, value in content.items()} for part, content in found.items()}
    study.conclude("simulator_matrix", {"minutes": None if args.smoke else args.minutes, "styles": args.styles} | plain, args)


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, say.Estimate) else {name: _plain(one) for name, one in value.items()}


if __name__ == "__main__":
    main()
