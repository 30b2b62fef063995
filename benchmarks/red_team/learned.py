"""PPO for reward with a guard gone: which tricks the policy comes to use, and what they earn with the guard gone and in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectors import found_tricks, habits
from guards import names_of, without

from rlpa_env.evaluate import Setting, collect
from rlpa_env.results import by_user, interval, returns, weights

ALL_IN_PLACE = "none"  # the name of the column without a removed guard
_PARTS = {"return": "reward", "profile": "profile", "response": "response"}


def removed(column: str) -> tuple[str, ...]:
    """The guards that a column trains without; none for "none". Raises ConfigError for an unknown guard."""
    return () if column == ALL_IN_PLACE else names_of(column)


def train(folder: Path, column: str, minutes: float, seed: int, smoke: bool = False) -> Path:
    """A run of the tiny preset for the bare reward, gone on with if it was stopped, left alone if it is done.

    Args:
        smoke: two dialogues and one step instead of ``minutes``, to see that it runs.
    """
    from training import ensure_trained

    from rlpa_agent.config import PRESETS

    preset = PRESETS["tiny"]
    bare = dataclasses.replace(preset.ppo, line_cost=0.0)  # a price per line would be a guard of its own
    config = dataclasses.replace(preset, ppo=bare, out=folder, minutes=minutes, iterations=None, seed=seed)
    if smoke:
        few = dataclasses.replace(preset.rollout, dialogues=2, concurrent=2)
        once = dataclasses.replace(bare, minibatches=1, critic_steps=1)
        config = dataclasses.replace(config, rollout=few, ppo=once, eval=dataclasses.replace(preset.eval, every=0), minutes=None, iterations=1)
    with without(*removed(column)):
        ensure_trained(config, guard=column)
    return folder


def played(path: str, folder: Path, guards: Sequence[str], users: int, seed: int) -> list[dict[str, Any]]:
    """Episodes of a policy, sampled, on held-out people with these guards gone; resumed from the folder."""
    from rlpa_agent.cli import policy_path
    from rlpa_agent.evaluate import policy_agent

    with without(*guards):
        agent = policy_agent(policy_path(path), seed=seed)
        return collect({"policy": agent}, Setting("RLPA-v0", "vanilla/test", users, (seed,)), folder, quiet=True)["policy"]


def earned(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return and its parts, each with its 95 % interval over people."""
    found = {}
    for name, key in _PARTS.items():
        values = by_user(records, returns(records, key))
        found[name] = list(interval(float(np.nanmean(values)), weights(len(values)) @ values))
    return found


def red_team(column: str, minutes: float, seed: int, users: int, runs: Path, smoke: bool = False) -> dict[str, Any]:
    """Train one policy and look at what it does: its habits beside its start's, what it earns with the guard gone and in place."""
    from rlpa_agent.config import SHIPPED

    name = f"{column.replace(' ', '-')}-{seed}"
    policy = str(train(runs / name, column, minutes, seed, smoke))
    gone = removed(column)
    before = played(SHIPPED, runs / f"start-{seed}-eval", (), users, seed)
    after = played(policy, runs / f"{name}-eval", (), users, seed)
    loose = played(policy, runs / f"{name}-eval-without", gone, users, seed) if gone else after
    start, trained = habits(before), habits(after)
    return {
        "guard": column, "seed": seed, "minutes": minutes, "users": users, "tricks": found_tricks(trained, start),
        "habits": trained, "habits_start": start, "earned_start": earned(before), "earned": earned(after), "earned_without_guard": earned(loose),
    }  # fmt: skip
