"""Environments as Gymnasium has them, played side by side in one process: the `EnvPool` that comes with the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from rlpa_agent.protocols import EnvPool, Messages, Opening, Step, TextEnv
from rlpa_env import fork, restore
from rlpa_env.errors import ConfigError
from rlpa_env.vector import Transition, begin_step

T = TypeVar("T")


class GymPool:
    """One environment a slot. See `protocols.TextEnv` for what each has to say, and `rlpa_env.fork` for what can branch."""

    def __init__(self, envs: Sequence[TextEnv]) -> None:
        self.envs = list(envs)
        self._said: list[Messages] = [()] * len(self.envs)
        self._under_way: dict[int, Future[Step]] = {}

    def __len__(self) -> int:
        return len(self.envs)

    def reset(self, slot: int, seed: int, options: Mapping[str, Any] | None = None) -> Opening:
        """See `EnvPool`."""
        env = self.envs[slot]
        wait([self._under_way[slot]] if slot in self._under_way else [])  # left by a rollout that was broken off
        observation, info = env.reset(seed=int(seed), options=None if options is None else dict(options))
        self._said[slot] = _messages(info) or (("user", _text(env, observation)),)
        inner = getattr(env, "unwrapped", env)
        return Opening(self._said[slot], f"{getattr(getattr(inner, 'profile', None), 'id', type(inner).__name__)}#{int(seed)}")

    def begin(self, slot: int, text: str) -> Future[Step]:
        """See `EnvPool`. An `RLPAEnv` with language models in it takes its time."""

        def went_on(step: Step) -> Step:
            self._said[slot] = step.messages
            return step

        self._under_way[slot] = future = self._begin(slot, self.envs[slot], text, went_on)
        return future

    def attempt(self, slot: int, text: str) -> Future[tuple[Step, Any]]:
        """See `BranchingPool`. Raises ConfigError for an environment that `rlpa_env.fork` does not know."""
        copy = fork(self.envs[slot])  # type: ignore[arg-type]
        return self._begin(slot, copy, text, lambda step: (step, (copy, step.messages)))

    def settle(self, slot: int, attempted: Any) -> None:
        """See `BranchingPool`."""
        copy, self._said[slot] = attempted
        restore(self.envs[slot], copy)  # type: ignore[arg-type]

    def _begin(self, slot: int, env: Any, text: str, then: Callable[[Step], T]) -> Future[T]:
        said = self._said[slot]

        def step(transition: Transition) -> T:
            observation, reward, terminated, truncated, info = transition
            grown = _messages(info) or (*said, ("assistant", text), ("user", _text(env, observation)))
            return then(Step(grown, float(reward), bool(terminated), bool(truncated), info))

        return begin_step(env, text, step)


def as_pool(envs: EnvPool | Sequence[TextEnv]) -> EnvPool:
    """A pool as it is, and environments as a `GymPool`."""
    return envs if isinstance(envs, EnvPool) else GymPool(envs)


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
