"""Where a run is open: what plays the world, what samples, what learns. Each is an object with a few methods.

`EnvPool` holds the environments, `Generator` samples turns outside of this process, `Learner` turns a rollout into better
weights. `Trainer` takes one of each and brings its own where none is given: `pool.GymPool` around environments as Gymnasium
has them (`TextEnv`), the policy itself, and `learner.Learner`. They speak in the records below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch.optim import Optimizer

from rlpa_agent.batch import Batch
from rlpa_agent.estimates import Estimates, UpdateStats

Messages = tuple[tuple[str, str], ...]
"""A dialogue so far: (role, content) with role system, user or assistant. [system,] user, (assistant, user)*."""


class TextEnv(Protocol):
    """A Gymnasium environment whose actions are texts.

    Its observations are the user's texts; or ``info["messages"]`` is the dialogue so far, and observations are not read.
    Further infos are known by name, and may all be missing: ``reward/valid`` (False: the turn could not be scored),
    ``stop_reason``, ``profile/partial``. Any numbers among the infos are kept with their turn.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; (observation, info)."""

    def step(self, action: str, /) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """(observation, reward, terminated, truncated, info)."""


@dataclass(frozen=True)
class Opening:
    """The start of an episode."""

    messages: Messages  # ends with what the user says first
    name: str = ""  # who and which seed, for logs


@dataclass(frozen=True)
class Step:
    """What an answer led to."""

    messages: Messages  # the dialogue so far, this answer included; the newest message is the user's, if there is one
    reward: float  # of this turn, unscaled
    terminated: bool  # the value beyond is 0
    truncated: bool  # cut short: a limit or a failure
    info: Mapping[str, Any] = field(default_factory=dict)  # as in `TextEnv`


@runtime_checkable
class EnvPool(Protocol):
    """Environments in numbered slots, each of which plays one episode at a time. Slots know nothing of each other."""

    def __len__(self) -> int:
        """Number of slots: so many episodes are played beside each other at the most."""

    def reset(self, slot: int, seed: int, options: Mapping[str, Any] | None = None) -> Opening:
        """Begin an episode in a slot; equal seeds begin alike, in any slot.

        A rollout that was broken off may have left a future of the slot that is not done: wait for it, or drop what it brings.
        """

    def begin(self, slot: int, text: str) -> Future[Step]:
        """Answer in a slot; what comes of it. While a future is not done its slot is left alone, and the others go on.

        A pool that has to wait, for models or for another machine, returns at once; one that has not steps here and returns a
        future that is done (`rlpa_env.flows.finished`).
        """


@runtime_checkable
class BranchingPool(EnvPool, Protocol):
    """A pool that can try an answer without going on from it: for several samples a turn."""

    def attempt(self, slot: int, text: str) -> Future[tuple[Step, Any]]:
        """`begin` in a copy of the slot, which itself stays as it is; what comes of it, and the copy."""

    def settle(self, slot: int, attempted: Any) -> None:
        """Go on from a copy that `attempt` gave."""


class Sampled(NamedTuple):
    """One sampled turn."""

    ids: list[int]  # the sampled end token included
    logp: list[float]  # of each, after temperature and bans
    version: str  # of the weights that sampled it


class Generator(Protocol):
    """What samples turns outside of this process; `served.VllmGenerator` is one.

    Where it computes a little differently from the trainer, ``ppo.importance_cap`` corrects for that.
    """

    def begin(self, context_ids: Sequence[int], key: Sequence[int], max_new_tokens: int, temperature: float) -> Future[Sampled]:
        """Sample one turn after a context; ``key`` names its random stream. Returns at once."""

    def update(self, policy: Any) -> str:
        """Take over the policy's weights; the new version. Answers of older weights are for the generator to refuse, as `VllmGenerator` does."""


class Learner(Protocol):
    """What learns from a rollout. Owns the optimizers and whatever else it carries from one rollout to the next."""

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """By name, none of them "reference"; checkpoints hold their tensors."""

    def update(self, batch: Batch, iteration: int, done: float, /) -> tuple[Estimates, UpdateStats]:
        """Change the policy's weights; what the rollout was worth before that, and what was done.

        ``done`` is the share of the run that is over, from 0 to 1, for schedules. A function of the weights, its own state
        and the arguments, so that a resumed run goes on bit for bit. Raises FloatingPointError where it cannot go on.
        """

    def state(self) -> dict[str, Any]:
        """Plain JSON-able data that a resumed run needs beside the optimizers' tensors; kept in ``state.json``.

        Keys of the trainer's own win: iteration, dialogues, action_tokens, best, config_hash, base_dtype, machine, random, format, crc32.
        """

    def load_state(self, state: Mapping[str, Any], /) -> None:
        """Undo `state`; gets all of ``state.json``."""
