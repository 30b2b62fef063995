"""What benchmarks that train share: runs that go on where they were, and a file `done` that says what a finished one holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import commit

from rlpa_agent.baseline_config import DPO, SFT
from rlpa_agent.checkpoint import read_state, recovered
from rlpa_agent.cli import build_trainer
from rlpa_agent.config import TrainConfig
from rlpa_agent.progress import records_until

DONE = "done"


def settings_of(config: TrainConfig | SFT | DPO, files: Sequence[str] = ()) -> str:
    """Short fingerprint of what is trained, and for how long; not of where.

    Args:
        files: fingerprints of what PPO reads, where a path may come to hold something else.
    """
    if isinstance(config, TrainConfig):
        text = json.dumps([config.hash(), config.minutes, config.iterations, config.action_tokens, *files])
    else:
        text = json.dumps(dataclasses.asdict(dataclasses.replace(config, out=Path(), answers=None)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_done(folder: Path) -> dict[str, Any] | None:
    """What a finished run holds; None for one that is not finished."""
    path = folder / DONE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": found["settings"], **found}
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path}: expected what a finished run of this benchmark says of itself; {error!r}. Choose another --runs.") from error


def check_done(folder: Path, settings: str) -> None:
    """A finished run must be the one that is asked for."""
    found = read_done(folder)
    if found is not None and found["settings"] != settings:
        raise SystemExit(
            f"{folder}: expected a run with the settings asked for; it was finished with others (after {found.get('minutes')} "
            "minutes). Ask for the same --minutes, or choose another --runs."
        )


def check_begun(folder: Path, files: Sequence[str]) -> None:
    """A stopped run goes on with what it began with: fingerprints of what it reads are noted once, and compared from then on."""
    noted, text = folder / "files", "\n".join(files)
    if noted.exists() and noted.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{folder}: expected the model and people that its run began with; got others. Ask for the same, or choose another --runs.")
    folder.mkdir(parents=True, exist_ok=True)
    noted.write_text(text, encoding="utf-8")


def write_done(folder: Path, settings: str, told: Mapping[str, Any]) -> None:
    """Say that a run is finished, and what it holds; whole or not at all."""
    work = folder / f"{DONE}.part"
    work.write_text(json.dumps({**told, "settings": settings, "commit": commit()}, indent=1) + "\n", encoding="utf-8")
    work.replace(folder / DONE)


def kept_iterations(folder: Path) -> list[dict[str, Any]]:
    """Figures of the iterations that the newest checkpoint of a run has behind it; [] where there is none."""
    last, metrics = recovered(folder / "last"), folder / "metrics.jsonl"
    if not (last / "state.json").exists():  # nothing yet, or a baseline, which has no iterations
        return []
    return records_until(metrics, read_state(last)["iteration"])


def is_over(config: TrainConfig, lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run that has kept these iterations was at its end, and was stopped before it could say so.

    One that lacks the validation at its end is not: gone on with, it makes up for that and learns nothing more.
    """
    if not lines or lines[-1]["stop"]:  # what ran away is not validated
        return bool(lines)
    last, spent = lines[-1]["iteration"], sum(line["seconds"] for line in lines)
    if config.eval.every and all(record["iteration"] != last for record in records_until(config.out / "validation.jsonl", last)):
        return False
    return (
        (config.iterations is not None and last >= config.iterations)
        or (config.minutes is not None and spent + lines[-1]["seconds"] > 60.0 * config.minutes)
        or (config.action_tokens is not None and sum(line["action_tokens"] for line in lines) >= config.action_tokens)
    )


def ensure_trained(config: TrainConfig, files: Sequence[str] = (), **told: Any) -> dict[str, Any]:
    """Train by PPO unless that is done; what `done` says of the run, with what is ``told`` of it. ``files``: see ``settings_of``."""
    settings = settings_of(config, files)
    check_done(config.out, settings)
    if read_done(config.out) is None:
        if files:
            check_begun(config.out, files)
        write_done(config.out, settings, {**told, **run_ppo(config)})
    return read_done(config.out) or {}


def run_ppo(config: TrainConfig) -> dict[str, Any]:
    """Train to the end, going on with what is there; ``config.minutes`` are of all processes together.

    Returns what `done` says of the run. One that ran away before its first checkpoint has nothing to say, and exits with the reason.
    """
    lines = kept_iterations(config.out)
    if not is_over(config, lines):
        trainer = build_trainer(config, resume=recovered(config.out / "last").exists(), quiet=not sys.stderr.isatty())
        figures = trainer.run(spent=sum(line["seconds"] for line in lines))
        lines = kept_iterations(config.out)
        if not lines:
            raise SystemExit(
                f"{config.out}: expected at least one iteration behind a checkpoint; got none ({figures.get('health', 'none was held')}). "
                "Its metrics.jsonl tells how it went; ask for another run, in another --runs."
            )
    return {
        "config_hash": config.hash(),
        "minutes": round(sum(line["seconds"] for line in lines) / 60, 2),
        "iterations": lines[-1]["iteration"],
        "dialogues": lines[-1]["dialogues"],
        "action_tokens": sum(line["action_tokens"] for line in lines),
        "return": round(lines[-1]["return"], 3),
        "health": lines[-1]["health"],
    }
