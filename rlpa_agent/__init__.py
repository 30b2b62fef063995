"""Token-level PPO for a language model that learns who it talks to. `Policy`, `Trainer`, `TrainConfig`; see `rlpa-agent`.

A run is open in three places, each a small protocol: `EnvPool`, `Generator`, `Learner` (`rlpa_agent.protocols`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpa_agent.config import PRESETS, TrainConfig
    from rlpa_agent.evaluate import PolicyAgent
    from rlpa_agent.policy import Policy
    from rlpa_agent.protocols import EnvPool, Generator, Learner
    from rlpa_agent.trainer import Trainer

__all__ = ["PRESETS", "EnvPool", "Generator", "Learner", "Policy", "PolicyAgent", "TrainConfig", "Trainer"]

_HOMES = {
    "PRESETS": "config", "EnvPool": "protocols", "Generator": "protocols", "Learner": "protocols", "Policy": "policy",
    "PolicyAgent": "evaluate", "TrainConfig": "config", "Trainer": "trainer",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load torch only when something is asked for that needs it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rlpa_agent' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rlpa_agent.{_HOMES[name]}"), name)
