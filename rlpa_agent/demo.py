"""The main job from end to end: train the tiny preset, then score it on held-out users before and after.

    python -m rlpa_agent.demo --out runs/demo --minutes 5 [--profiles FOLDER_OF_ALOE]

Leaves in OUT: run/ (metrics.jsonl, checkpoints), episodes.jsonl, results.json, gains.json, learning.png. The table has the start and
the trained policy, sampled and greedy, beside the reference agents on the same users; the last line sums it up.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from rlpa_agent.cli import policy_path, run_training
from rlpa_agent.config import PRESETS, SHIPPED, TrainConfig
from rlpa_agent.evaluate import policy_agent
from rlpa_env import Profile, RLPAError
from rlpa_env.evaluate import Setting, collect, results_table
from rlpa_env.loaders import load_aloe
from rlpa_env.results import paired_difference, paired_normalised, summarise

BEFORE, AFTER = "start", "trained"
BESIDE = ("prior", "script", "attentive", "oracle")
HELD_OUT = 5  # of other people's profiles, every fifth is held out
_FIGURES = (("return", "return"), ("f1", "profile F1"), ("grounded_f1", "grounded F1"), ("response", "response"))


def split_people(folder: Path, out: Path) -> tuple[Path, Path, Path]:
    """ALOE people as three profile files: 72 % to train on, 8 % to watch, every fifth person to test on."""
    people = load_aloe(folder)
    test = people[::HELD_OUT]
    rest = [person for i, person in enumerate(people) if i % HELD_OUT]
    watched, train = rest[::10], [person for i, person in enumerate(rest) if i % 10]
    return _write(out / "train.jsonl", train), _write(out / "val.jsonl", watched), _write(out / "held_out.jsonl", test)


def _write(path: Path, people: Sequence[Profile]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(person.to_mapping(), ensure_ascii=False) + "\n" for person in people]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def plan(out: Path, minutes: float, seed: int, profiles: Path | None) -> tuple[TrainConfig, str]:
    """The training run, and the split that its policy is scored on afterwards."""
    preset = PRESETS["tiny"]
    config = dataclasses.replace(preset, out=out / "run", minutes=minutes, iterations=None, seed=seed)
    if profiles is None:
        return config, "vanilla/test"
    train, watched, test = split_people(profiles, out / "profiles")
    rollout = dataclasses.replace(preset.rollout, split=str(train))
    watch = dataclasses.replace(preset.eval, split=str(watched))
    return dataclasses.replace(config, rollout=rollout, eval=watch), str(test)


def score(
    out: Path, trained: Path, split: str, *, users: int | None, seed: int, start: str = SHIPPED, quiet: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Episodes of the start, the trained policy (both sampled and greedy) and the reference agents, same users and seeds."""
    agents: dict[str, Any] = {}
    for name, path in ((BEFORE, start), (AFTER, str(trained))):
        agents[name] = policy_agent(policy_path(path), seed=seed)
        agents[f"{name}, greedy"] = policy_agent(policy_path(path), seed=seed, temperature=0.0)
    agents |= dict.fromkeys(BESIDE)
    return collect(agents, Setting("RLPA-v0", split, users, (seed,)), out, quiet=quiet)


def final_line(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The whole result on one line."""
    keys = ("return", "profile_grounded_f1", "response", "normalised")
    names = ("return", "grounded F1", "response", "normalised")
    digits = (2, 3, 3, 3)
    parts = [f"{name} {before[k]:.{d}f} -> {after[k]:.{d}f}" for name, k, d in zip(names, keys, digits, strict=True)]
    return f"{' | '.join(parts)} ({after['users']} held-out users)"


def draw(out: Path, metrics: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Learning curves on the left, alignment by turn on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    seen = [line["dialogues"] for line in lines]
    left.plot(seen, [line["return"] for line in lines], color="tab:blue")
    left.set(title="return while training", xlabel="dialogues", ylabel="return (turn rewards summed)")
    for key, label in (("profile/grounded_f1", "grounded F1"), ("profile/ceiling", "revealed before the guess")):
        middle.plot(seen, [line[key] for line in lines], label=label)
    middle.plot(seen, [line["reward/response"] for line in lines], label="response reward")
    middle.set(title="its parts", xlabel="dialogues", ylim=(0, 1))
    middle.legend(fontsize=8)
    for row in rows:
        if "greedy" not in row["agent"]:
            turns = range(1, len(row["al"]) + 1)
            right.plot(turns, row["al"], label=row["agent"], linewidth=2.5 if row["agent"] in (BEFORE, AFTER) else 1)
            right.fill_between(turns, row["al_lo"], row["al_hi"], alpha=0.12)
    right.set(title="alignment AL(k), held-out users", xlabel="turn k", ylabel="replies that suit this person, %", ylim=(0, 100))
    right.legend(fontsize=8)
    path = out / "learning.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def main(
    out: Path = Path("runs/demo"),
    minutes: float = 5.0,
    seed: int = 0,
    users: int | None = None,
    profiles: Path | None = None,
) -> None:
    """Train the tiny preset and compare it with its start on held-out users.

    Args:
        out: folder for everything that is left behind; a new one.
        minutes: training time, evaluation apart.
        seed: of training and evaluation.
        users: score on the first so many held-out users; all of them if not given.
        profiles: folder with ALOE's profile.jsonl and personality.jsonl: train and score on those people instead.
    """
    if (out / "run").exists():  # a demo repeats; the earlier one stays beside it
        out = out.with_name(f"{out.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    console = Console(width=None if sys.stdout.isatty() else 170)
    try:
        config, split = plan(out, minutes, seed, profiles)
        console.print(f"training the tiny preset for {minutes:g} minutes; results in {out}")
        run_training(config)
        records = score(out, config.out, split, users=users, seed=seed)
    except RLPAError as error:
        raise SystemExit(f"demo: {error}") from error
    except KeyboardInterrupt:
        print(f"demo: interrupted. What was learned so far is in {config.out}; a new demo begins anew.", file=sys.stderr)
        raise SystemExit(130) from None
    rows = [summarise(name, r, records["prior"], records["oracle"], (seed,)) for name, r in records.items()]
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    console.print(results_table(rows, f"{split} · {rows[0]['users']} held-out users · 95 % intervals"))
    gains = {}
    for pair in ((AFTER, BEFORE), (f"{AFTER}, greedy", f"{BEFORE}, greedy")):
        after, before = (records[name] for name in pair)
        found = {label: paired_difference(after, before, key) for key, label in _FIGURES}
        found["normalised"] = paired_normalised(after, before, records["prior"], records["oracle"])
        gains[" − ".join(pair)] = found
        text = " · ".join(f"{label} {gap:+.3f} [{low:+.3f}, {high:+.3f}]" for label, (gap, low, high) in found.items())
        console.print(f"{pair[0]} − {pair[1]}, paired: {text}", soft_wrap=True)
    (out / "gains.json").write_text(json.dumps(gains, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    picture = draw(out, config.out / "metrics.jsonl", rows)
    named = {row["agent"]: row for row in rows}
    console.print(f"left in {out}: results.json gains.json episodes.jsonl {picture.name} run/metrics.jsonl run/last/policy", soft_wrap=True)
    print(final_line(named[BEFORE], named[AFTER]))


if __name__ == "__main__":
    tyro.cli(main)
