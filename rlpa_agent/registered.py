"""What the id of an environment stands for: the people, turn limit, rewards and talk that it is registered with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym

from rlpa_env.population import SPLIT_SIZES
from rlpa_env.setting import full_id

OWN: Any = None
"""In the place of an argument below: the one that the environment's id is registered with."""

_USUAL: dict[str, Any] = {
    "max_turns": 10, "split": "vanilla/train", "cues": "mixed", "style": None, "credit": "paper", "profile_weight": 1.0, "response_weight": 1.0,
}  # fmt: skip

Settings = TypeVar("Settings", bound=Any)


def registered(env_id: str) -> dict[str, Any]:
    """What a run can set and an id may be registered with; the usual where it names nothing or nobody knows it, which `gym.make` will say.

    >>> found = registered("RLPA-Long-v0")
    >>> found["max_turns"], found["split"], found["profile_weight"]
    (70, 'vanilla/train', 1.0)
    """
    spec = gym.registry.get(full_id(env_id).rpartition(":")[2])
    named: dict[str, Any] = {} if spec is None else spec.kwargs
    return {name: usual if named.get(name) is None else named[name] for name, usual in _USUAL.items()}


def settle_own(settings: Any) -> None:
    """Put what its ``env_id`` is registered with in the place of every OWN of a frozen record under construction."""
    for name, value in registered(settings.env_id).items():
        if hasattr(settings, name) and getattr(settings, name) is OWN:
            object.__setattr__(settings, name, value)


def moved(settings: Settings, env_id: str) -> Settings:
    """Settings for another environment: what the two ids are registered with differently is that of the other.

    The id itself stays, for whoever reads further options on top of these.
    """
    here, there = registered(settings.env_id), registered(env_id)
    return dataclasses.replace(settings, **{name: there[name] for name in there if hasattr(settings, name) and there[name] != here[name]})


def sibling(split: str, kind: str) -> str:
    """The split of another kind of the same family of people; that of vanilla for people from a file.

    >>> sibling("extended/train", "val")
    'extended/val'
    """
    return f"{split.split('/')[0] if split in SPLIT_SIZES else 'vanilla'}/{kind}"


def is_test(split: str) -> bool:
    """Whether people are to be kept for the end, by their name.

    >>> is_test("vanilla/test"), is_test("aloe-test.jsonl"), is_test("latest.jsonl")
    (True, True, False)
    """
    return f"-{Path(split).stem.lower()}".endswith(("-test", "_test", ".test"))
