"""Many dialogues in one step: the model calls of all of them are in flight together, without a thread a dialogue."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, SupportsFloat, TypeVar

import gymnasium as gym
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlpa_env.env import RLPAEnv
from rlpa_env.errors import ConfigError
from rlpa_env.flows import begin, finished, run
from rlpa_env.wrappers import RecordEpisodes

T = TypeVar("T")
_FLOWS, _MATCHING = 3, 0  # of a turn, and the place of the matcher's; see `RLPAEnv.flows`
Transition = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


def make_calls(envs: Sequence[gym.Env], actions: Sequence[str]) -> None:
    """Make the model calls that ``step(action)`` of each environment would make, all at once; the steps then wait no more.

    Environments that ask no model, or that may hear another text than they are given, are left alone. What the steps would raise is
    raised here, before any of them: no turn was begun, and the same can be tried again. For that the parts of an environment with
    ``on_error="raise"`` are called here even if none is a model.
    """
    waiting = [
        (core, action)
        for env, action in zip(envs, actions, strict=True)
        if (core := _hearing(env)) is not None and (core.waits or core.on_error == "raise")
    ]
    try:
        flows = [flow for core, action in waiting for flow in core.flows(action)]
        # Matching last: most matchers are arithmetic, to be done while users and judges have been asked.
        order = sorted(range(len(flows)), key=lambda index: index % _FLOWS == _MATCHING)
        outcomes = dict(zip(order, run([flows[index] for index in order]), strict=True))
        for turn, (core, action) in enumerate(waiting):
            core.take(action, [outcomes[_FLOWS * turn + part] for part in range(_FLOWS)])
    except BaseException:
        for core, _ in waiting:
            core.take_back()
        raise


def step_all(envs: Sequence[gym.Env], actions: Sequence[str]) -> list[Transition]:
    """``step`` of every (wrapped) environment; equal to stepping one after the other, and as fast as the slowest."""
    make_calls(envs, actions)
    return [env.step(action) for env, action in zip(envs, actions, strict=True)]


def begin_step(env: Any, action: Any, then: Callable[[Transition], T]) -> Future[T]:
    """A future of ``then(env.step(action))``: of an environment that waits for models, one that comes when they have answered.

    Until then nothing else may touch the environment. It is stepped by `flows.begin`; any other environment at once, by us, and what
    it raises is raised. So is one that may hear another text than it is given, whose calls cannot be made ahead.
    """
    core = _hearing(env)
    if core is None or not core.waits:
        return finished(then(env.step(action)))

    def step(outcomes: Sequence[Any]) -> T:
        core.take(action, outcomes)
        return then(env.step(action))

    return begin(partial(core.flows, action), step)


# The steps of wrappers that hand the very action on. What any other hands on, nobody can know before.
_PASS_ON = {gym.Wrapper.step, gym.ObservationWrapper.step, gym.RewardWrapper.step, RecordEpisodes.step} | {
    getattr(wrappers, name).step for name in ("OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "RenderCollection", "TimeLimit")
}


def _hearing(env: Any) -> RLPAEnv | None:
    """The environment inside, if it is certain to hear the text that ``env`` is stepped with."""
    while isinstance(env, gym.Wrapper) and type(env).step in _PASS_ON:
        env = env.env
    return env if isinstance(env, RLPAEnv) else None


class RLPAVectorEnv(SyncVectorEnv):
    """``num_envs`` dialogues side by side; one step is one concurrent fan-out of all model calls.

    Spaces, seeding, ``reset_mask`` and the autoreset modes are Gymnasium's own: it differs from ``SyncVectorEnv`` only
    in that nobody waits in line.

    Args:
        num_envs: number of dialogues.
        max_episode_steps: turn limit of each; the smaller one if ``max_turns`` is given too.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``; see `gymnasium.vector.AutoresetMode`.
        kwargs: of `RLPAEnv`; equal ``llm`` settings share one client, and so its limits. A ``user`` object is copied for each
            dialogue; a judge or matcher is asked by all of them.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int = 10,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **kwargs: Any,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs: expected at least 1; got {num_envs}.")
        told = kwargs.get("max_turns")
        kwargs["max_turns"] = max_episode_steps if told is None else min(told, max_episode_steps)  # nobody is told of turns that never come

        def one() -> gym.Env:
            own = {"user": copy.deepcopy(kwargs["user"])} if "user" in kwargs else {}  # a user is one person; models and judges are shared
            return wrappers.TimeLimit(wrappers.OrderEnforcing(RLPAEnv(**kwargs | own)), kwargs["max_turns"])

        super().__init__([one] * num_envs, autoreset_mode=autoreset_mode)

    def step(self, actions: Sequence[str]) -> Any:
        """Step every dialogue; see `gymnasium.vector.VectorEnv.step`."""
        actions = tuple(actions)
        if len(actions) != self.num_envs:
            raise ConfigError(f"step: expected {self.num_envs} actions; got {len(actions)}.")
        resets = self._autoreset_envs if self.autoreset_mode is AutoresetMode.NEXT_STEP else [False] * self.num_envs
        stepped = [(env, action) for env, action, over in zip(self.envs, actions, resets, strict=True) if not over]
        make_calls([env for env, _ in stepped], [action for _, action in stepped])
        return super().step(actions)
