"""Branching a dialogue: copies of a wrapped environment in mid-episode, and going back to one."""

from __future__ import annotations

import copy

import gymnasium as gym

from rlpa_env.env import RLPAEnv
from rlpa_env.errors import ConfigError


def fork(env: gym.Env) -> gym.Env:
    """An independent copy of a (wrapped) environment in mid-episode: same person, same random stream, same turn count.

    Wrappers are copied shallowly around the copy; recorders (``records_episodes = True``) are left out, so that a
    branch that is only tried leaves no trace.
    """
    if isinstance(env, gym.Wrapper):
        if getattr(env, "records_episodes", False):
            return fork(env.env)
        twin = copy.copy(env)
        twin.env = fork(env.env)
        return twin
    if not isinstance(env, RLPAEnv):
        raise ConfigError(f"fork: expected an RLPAEnv inside the wrappers; got {type(env).__name__}.")
    return env.forked()


def restore(env: gym.Env, state: gym.Env) -> None:
    """Put ``env`` into the state of ``state``, a `fork` of it; ``state`` stays as it is and can be used again."""
    inner, source = env, state
    while isinstance(inner, gym.Wrapper):
        if not getattr(inner, "records_episodes", False) and isinstance(source, gym.Wrapper):
            kept = inner.env
            inner.__dict__.update({k: copy.copy(v) for k, v in source.__dict__.items() if k != "env"})
            inner.env, source = kept, source.env
        inner = inner.env
    if not isinstance(inner, RLPAEnv) or not isinstance(source, RLPAEnv):
        raise ConfigError("restore: expected an environment and a fork of it, both around an RLPAEnv.")
    inner.restore(source.snapshot())
