"""Branching a dialogue: copies of a wrapped environment in mid-episode, and going back to one."""

from __future__ import annotations

import copy
from types import FunctionType
from typing import Any

import gymnasium as gym
import numpy as np

from rlpa_env.env import RLPAEnv
from rlpa_env.errors import ConfigError


def fork(env: gym.Env) -> gym.Env:
    """An independent copy of a (wrapped) environment in mid-episode: same person, same random stream, same turn count.

    Wrappers are copied around the copy, each with its own counts, queues and spaces; recorders
    (``records_episodes = True``) are left out, so that a branch that is only tried leaves no trace.

    Raises gymnasium's ResetNeeded before the first ``reset``: there is no episode to branch yet.
    """
    if isinstance(env, gym.Wrapper):
        if getattr(env, "records_episodes", False):
            return fork(env.env)
        twin = copy.copy(env)
        twin.__dict__.update({name: _own(value) for name, value in env.__dict__.items() if name != "env"})
        twin.env = fork(env.env)
        return twin
    if not isinstance(env, RLPAEnv):
        raise ConfigError(f"fork: expected an RLPAEnv inside the wrappers; got {type(env).__name__}.")
    return env.forked()


def restore(env: gym.Env, state: gym.Env) -> None:
    """Put ``env`` into the state of ``state``, a `fork` of it; ``state`` stays as it is and can be used again.

    A recorder around ``env`` forgets the turns that were taken back (its ``restored()``).
    """
    inner, source, recorders = env, state, []
    while isinstance(inner, gym.Wrapper):
        if getattr(inner, "records_episodes", False):
            recorders.append(inner)
        elif isinstance(source, gym.Wrapper):
            inner.__dict__.update({name: _own(value) for name, value in source.__dict__.items() if name != "env"})
            source = source.env
        inner = inner.env
    if not isinstance(inner, RLPAEnv) or not isinstance(source, RLPAEnv):
        raise ConfigError("restore: expected an environment and a fork of it, both around an RLPAEnv.")
    inner.restore(source.snapshot())
    for recorder in recorders:
        if hasattr(recorder, "restored"):
            recorder.restored()


def _own(value: Any) -> Any:
    """A copy of what a wrapper holds, one level deep: its queues and counts. What has no copy, such as a lock, is shared."""
    if value is None or isinstance(value, (bool, int, float, str, type, FunctionType)):
        return value
    if isinstance(value, (gym.Space, np.random.Generator)):  # their random stream lies deeper
        return copy.deepcopy(value)
    try:
        return copy.copy(value)
    except TypeError:
        return value
