"""Rollouts kept on disk: what an iteration saw, earned and concluded, as arrays and as text.

An iteration is two files in RUN/rollouts. ``iteration-0001.safetensors`` holds the batch under its own names (rows one
after another in ``ids`` with ``mask``, ``row_lengths``) and what the learner made of it under ``estimates.*``;
``iteration-0001.jsonl`` has a line a dialogue: who, the messages, and every turn's reward with its parts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlpa_agent.batch import Batch
from rlpa_agent.estimates import Estimates
from rlpa_agent.trajectory import Trajectory
from rlpa_env import ConfigError

FOLDER = "rollouts"
_FLAT = [field.name for field in dataclasses.fields(Batch) if field.name not in ("rows", "episode_C", "states_AH")]
_ESTIMATES = [field.name for field in dataclasses.fields(Estimates) if field.name != "hidden_AH"]


@dataclass(frozen=True)
class KeptRollout:
    """One iteration, as it was kept."""

    iteration: int
    batch: Batch
    estimates: Estimates
    episodes: tuple[dict[str, Any], ...]  # the lines of the text file, in the order of the dialogues


def save_rollout(
    run: Path, iteration: int, batch: Batch, estimates: Estimates, trajectories: Sequence[Trajectory]
) -> Path:
    """Write an iteration under ``run``; a kill leaves whole files or none."""
    from safetensors.torch import save_file

    mask = [np.zeros(len(row), dtype=bool) for row in batch.rows]
    for row, position in zip(batch.row_A.tolist(), batch.pos_A.tolist(), strict=True):
        mask[row][position] = True
    tensors: dict[str, Tensor] = {
        "ids": torch.from_numpy(np.concatenate(batch.rows)).to(torch.int32),
        "mask": torch.from_numpy(np.concatenate(mask)),
        "row_lengths": torch.tensor([len(row) for row in batch.rows]),
        "episode_C": torch.tensor(batch.episode_C),
    }
    tensors |= {name: getattr(batch, name) for name in _FLAT}
    for name in _ESTIMATES:
        value = getattr(estimates, name)
        if value is not None:
            tensors[f"estimates.{name}"] = value
    path = _path(run, iteration)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(_line(i, t), ensure_ascii=False) + "\n" for i, t in enumerate(trajectories))
    part, text = path.with_suffix(".part"), path.with_suffix(".jsonl")
    part.write_text(lines, encoding="utf-8")
    part.rename(text)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, part)  # arrays may be one another
    part.rename(path)
    return path


def _path(run: Path, iteration: int) -> Path:
    return Path(run) / FOLDER / f"iteration-{iteration:04d}.safetensors"


def _line(index: int, trajectory: Trajectory) -> dict[str, Any]:
    turns = [
        {"reward": turn.reward, "valid": turn.valid, "stop": turn.stop, "parts": dict(turn.parts)}
        | ({"others": [other.reward for other in turn.others]} if turn.others else {})
        for turn in trajectory.turns
    ]
    ending = {name: getattr(trajectory, name) for name in ("terminated", "truncated", "stop_reason")}
    return {"index": index, "episode": trajectory.episode, **ending, "messages": list(trajectory.messages), "turns": turns}


def kept_iterations(run: Path) -> list[int]:
    """Numbers of the iterations kept under ``run``, in order."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in (Path(run) / FOLDER).glob("iteration-*.safetensors"))


def drop_later(run: Path, iteration: int) -> None:
    """Remove iterations after ``iteration``, which a resumed run will hold anew."""
    for number in kept_iterations(run):
        if number > iteration:
            _path(run, number).unlink()
            _path(run, number).with_suffix(".jsonl").unlink(missing_ok=True)


def load_rollout(run: Path, iteration: int | None = None) -> KeptRollout:
    """An iteration that `save_rollout` wrote; the newest by default."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    kept = kept_iterations(run)
    if not kept or (iteration is not None and iteration not in kept):
        wanted = "kept rollouts" if iteration is None else f"iteration {iteration} among the kept rollouts"
        raise ConfigError(
            f"{run}: expected {wanted}; there are {kept or 'none'}. Train with --keep-rollouts to keep them."
        )
    iteration = kept[-1] if iteration is None else iteration
    path = _path(run, iteration)
    try:
        tensors = load_file(path)
        text = path.with_suffix(".jsonl").read_text(encoding="utf-8")
        episodes = tuple(json.loads(line) for line in text.split("\n") if line)  # people may write U+2028, a line end to splitlines()
        ids = np.split(tensors["ids"].numpy().astype(np.int64), np.cumsum(tensors["row_lengths"].numpy())[:-1])
        batch = Batch(
            rows=tuple(ids), episode_C=tuple(tensors["episode_C"].tolist()), **{name: tensors[name] for name in _FLAT}
        )
        estimates = Estimates(**{name: tensors.get(f"estimates.{name}") for name in _ESTIMATES})  # type: ignore[arg-type]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: expected a kept rollout with its text beside it; {error!r}. It is damaged.") from error
    return KeptRollout(iteration, batch, estimates, episodes)


def joined(batches: Sequence[Batch], dialogues: Sequence[int]) -> Batch:
    """Several batches as one: rows, chains, episodes and groups are numbered on.

    ``dialogues``: so many began in each; the last ones may have failed and left no chain.
    """
    rows = chains = tokens = episodes = groups = 0
    parts: dict[str, list[Tensor]] = {name: [] for name in _FLAT}
    numbers: list[int] = []
    for batch, held in zip(batches, dialogues, strict=True):
        moved = {"row_A": rows, "boot_row_C": rows, "chain_A": chains, "starts_C": tokens, "group_C": groups}
        for name in _FLAT:
            parts[name].append(getattr(batch, name) + moved[name] if name in moved else getattr(batch, name))
        numbers += [episodes + episode for episode in batch.episode_C]
        rows, chains, tokens = rows + len(batch.rows), chains + len(batch.starts_C), tokens + batch.tokens
        episodes, groups = episodes + held, int(parts["group_C"][-1].max()) + 1
    flat = {name: torch.cat(tensors) for name, tensors in parts.items()}
    return Batch(rows=tuple(row for batch in batches for row in batch.rows), episode_C=tuple(numbers), **flat)
