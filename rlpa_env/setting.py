"""Which task is evaluated: environment, people, seeds, and who judges alignment; agents are compared only within one."""

from __future__ import annotations

import copy
import hashlib
import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym

from rlpa_env.errors import ConfigError
from rlpa_env.judges import Judge
from rlpa_env.parts import check_choice, judge_of, profiles_of
from rlpa_env.population import SPLIT_SIZES
from rlpa_env.wrappers import described, digest, source


def full_id(env_id: str) -> str:
    """What `gym.make` is to be called with: an id of this package, or ``MODULE:ID`` of a module of yours that registers it.

    Raises ConfigError if Python does not find the module, which is imported.

    >>> full_id("RLPA-v0"), full_id("rlpa_env:RLPA-v0")
    ('rlpa_env:RLPA-v0', 'rlpa_env:RLPA-v0')
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module.startswith("."):
            raise ModuleNotFoundError(f"{module!r} is relative to nothing")
        importlib.import_module(module or "rlpa_env")
    except ModuleNotFoundError as error:
        hint = "Name a module that is installed, or lies in a folder of PYTHONPATH."
        raise ConfigError(f"env id {env_id!r}: expected an id, or MODULE:ID with a module that registers it; {error}. {hint}") from error
    return f"{module or 'rlpa_env'}:{name}"


def registered(env_id: str) -> dict[str, Any]:
    """The arguments that an id is registered with."""
    return gym.spec(full_id(env_id).rpartition(":")[2]).kwargs


def made(env_id: str, **kwargs: Any) -> gym.Env:
    """`gym.make`. Raises ConfigError for an environment that takes no such arguments, as those without people take no split."""
    try:
        return gym.make(full_id(env_id), **kwargs)
    except TypeError as error:
        raise ConfigError(f"env id {env_id!r}: expected an environment of people, made with {', '.join(kwargs)}, as RLPA-v0 is; {error}") from error


@dataclass(frozen=True)
class Setting:
    """Which task is evaluated; agents are compared only within one setting."""

    env_id: str = "RLPA-v0"
    split: str = "vanilla/test"
    users: int | None = None  # the first so many profiles in file order; None: all
    seeds: tuple[int, ...] = (0,)
    env_kwargs: tuple[tuple[str, Any], ...] = ()
    al_judge: str | Judge = "rules"  # judges every reply with the truth: "rules", "llm" (the model of ``env_kwargs``), or an object

    @cached_property
    def _read(self) -> tuple[dict[str, Any], Any, dict[str, list[str]]]:
        unread: dict[str, list[str]] = {"env_kwargs": [], "al_judge": []}
        return described(dict(self.env_kwargs), unread["env_kwargs"]), described(self.al_judge, unread["al_judge"]), unread

    @property
    def arguments(self) -> dict[str, Any]:
        """``env_kwargs`` as they stand in records; see `described`."""
        return self._read[0]

    @property
    def named(self) -> dict[str, Any]:
        """What records and rows say of the setting: ``kwargs``, and ``al_judge`` where it is not the rules."""
        return {"kwargs": self.arguments} | ({} if self._read[1] == "rules" else {"al_judge": self._read[1]})

    @property
    def unread(self) -> dict[str, list[str]]:
        """What of them cannot be told from others of its kind, as `described` names it, by argument."""
        return self._read[2]

    @cached_property
    def key(self) -> str:
        """Short name of the setting, for caches and resumed files. Another model, another judge of alignment, or a file of
        other profiles, is another setting; another server is not."""
        # Of a file it is the content that counts: it may have changed under its name, or have several.
        people = self.split if self.split in SPLIT_SIZES else hashlib.sha256(Path(self.split).read_bytes()).hexdigest()
        own: list[Any] = [self.env_id, people, list(map(list, self.arguments.items()))]
        own += [code for part in (*dict(self.env_kwargs).values(), self.al_judge) if (code := source(part))]  # judges, users, matchers
        if "al_judge" in self.named:
            own.append({"al_judge": self.named["al_judge"]})
        return digest(own)

    def make(self) -> gym.Env:
        """The environment of this setting. Objects among its arguments are copied: dialogues side by side share no user."""
        try:
            kwargs = copy.deepcopy(dict(self.env_kwargs))
        except TypeError as error:
            raise ConfigError(f"env_kwargs: expected objects that copy.deepcopy copies ({error}). Give their class a __deepcopy__.") from error
        parts = registered(self.env_id) | kwargs
        if self.al_judge == "llm" and "llm" not in [part for name in ("user", "matcher", "judge") if isinstance(part := parts.get(name), str)]:
            kwargs.pop("llm", None)  # the judge of alignment alone asks it
        limits = [kwargs[name] for name in ("max_turns", "max_episode_steps") if kwargs.get(name)]
        if len(limits) == 1:  # what is told is what holds
            kwargs |= {"max_turns": limits[0], "max_episode_steps": limits[0]}
        return made(self.env_id, split=self.split, **kwargs)

    @cached_property
    def waits(self) -> bool:
        """Whether the turns of its environment call models."""
        return self.make().unwrapped.waits  # type: ignore[attr-defined]

    @cached_property
    def aligner(self) -> Judge:
        """The judge of alignment, one for all dialogues. It is shown the truth, whatever the training judge is shown."""
        if isinstance(self.al_judge, str):
            check_choice("al_judge", self.al_judge, ("rules", "llm"))
        return judge_of(self.al_judge, dict(self.env_kwargs).get("llm"), sees="hidden")

    @property
    def asks(self) -> bool:
        """Whether its episodes call models: those of the environment, or the judge of alignment."""
        return self.waits or hasattr(self.aligner, "judge_flow")

    def episodes(self) -> list[tuple[str, int]]:
        """(profile id, environment seed) of every episode; paired across agents."""
        people = profiles_of(self.split)
        if self.users is not None and not 1 <= self.users <= len(people):
            raise ConfigError(f"users: expected 1..{len(people)} for split {self.split!r}; got {self.users}.")
        chosen = people[: self.users]
        return [(p.id, 1_000_003 * seed + i) for seed in self.seeds for i, p in enumerate(chosen)]
