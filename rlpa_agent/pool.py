"""Environments as Gymnasium has them, played side by side in one process: the `EnvPool` that comes with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from rlpa_agent.protocols import EnvPool, Messages, Opening, Step, TextEnv
from rlpa_env import RLPAEnv, fork, restore
from rlpa_env.errors import ConfigError
from rlpa_env.vector import make_calls


class GymPool:
    """One environment a slot. See `protocols.TextEnv` for what each has to say, and `rlpa_env.fork` for what can branch."""

    def __init__(self, envs: Sequence[TextEnv]) -> None:
        self.envs = list(envs)
        self._said: list[Messages] = [()] * len(self.envs)

    def __len__(self) -> int:
        return len(self.envs)

    def reset(self, slot: int, seed: int, options: Mapping[str, Any] | None = None) -> Opening:
        """See `EnvPool`."""
        env = self.envs[slot]
        observation, info = env.reset(seed=int(seed), options=None if options is None else dict(options))
        self._said[slot] = _messages(info) or (("user", _text(env, observation)),)
        inner = getattr(env, "unwrapped", env)
        return Opening(self._said[slot], f"{getattr(getattr(inner, 'profile', None), 'id', type(inner).__name__)}#{int(seed)}")

    def step(self, slots: Sequence[int], texts: Sequence[str]) -> list[Step]:
        """See `EnvPool`. One after another, once the model calls of all of them were made together."""
        ours = [(self.envs[slot], text) for slot, text in zip(slots, texts, strict=True) if _hears(self.envs[slot])]
        make_calls([env for env, _ in ours], [text for _, text in ours])  # type: ignore[misc]
        steps = [self._stepped(slot, self.envs[slot], text) for slot, text in zip(slots, texts, strict=True)]
        for slot, step in zip(slots, steps, strict=True):
            self._said[slot] = step.messages
        return steps

    def attempt(self, slot: int, text: str) -> tuple[Step, Any]:
        """See `BranchingPool`. Raises ConfigError for an environment that `rlpa_env.fork` does not know."""
        copy = fork(self.envs[slot])  # type: ignore[arg-type]
        step = self._stepped(slot, copy, text)
        return step, (copy, step.messages)

    def settle(self, slot: int, attempted: Any) -> None:
        """See `BranchingPool`."""
        copy, self._said[slot] = attempted
        restore(self.envs[slot], copy)  # type: ignore[arg-type]

    def _stepped(self, slot: int, env: Any, text: str) -> Step:
        observation, reward, terminated, truncated, info = env.step(text)
        grown = _messages(info) or (*self._said[slot], ("assistant", text), ("user", _text(env, observation)))
        return Step(grown, float(reward), bool(terminated), bool(truncated), info)


def as_pool(envs: EnvPool | Sequence[TextEnv]) -> EnvPool:
    """A pool as it is, and environments as a `GymPool`."""
    return envs if isinstance(envs, EnvPool) else GymPool(envs)


def _hears(env: Any) -> bool:
    """Whether the text that ``env`` is stepped with is what an `RLPAEnv` inside it will be: its calls can be made ahead."""
    while isinstance(env, gym.Wrapper) and not isinstance(env, gym.ActionWrapper):
        env = env.env
    return isinstance(env, RLPAEnv)


def _messages(info: Mapping[str, Any]) -> Messages:
    """The dialogue that an environment tells of; () if it tells none."""
    return tuple((message["role"], message["content"]) for message in info.get("messages", ()))


def _text(env: Any, observation: Any) -> str:
    if not isinstance(observation, str):
        raise ConfigError(
            f'{type(env).__name__}: expected a text as observation, or info["messages"]; got {type(observation).__name__}. '
            "Wrap it in an environment that says in words what there is to see."
        )
    return observation
