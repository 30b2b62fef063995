"""From a configuration to environments to train in, and to the figures that a run is judged by on held-out users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from rlpa_agent.config import RolloutConfig, TrainConfig
from rlpa_env import ConfigError
from rlpa_env.setting import full_id


def validation(config: TrainConfig) -> Any:
    """What the trainer calls every ``config.eval.every`` iterations: mean figures on fixed validation users, in the run's task."""
    from rlpa_agent.evaluate import PolicyAgent
    from rlpa_env.evaluate import Setting, collect
    from rlpa_env.results import means, returns

    judged, seed = config.eval, config.seed
    people = min(judged.users, _size(judged.split))
    setting = Setting(config.rollout.env_id, judged.split, people, (seed,), tuple(_task(config.rollout).items()))

    def figures(policy: Any) -> dict[str, float]:
        agent = PolicyAgent(policy, temperature=judged.temperature, seed=seed, max_new_tokens=config.rollout.max_new_tokens)
        records = collect({"policy": agent}, setting, quiet=True)["policy"]
        names = {"profile_f1": "f1", "profile_grounded_f1": "grounded_f1", "response": "response", "ceiling": "ceiling"}
        found = {name: float(np.nanmean(means(records, key))) for name, key in names.items()}
        return {"return": float(np.nanmean(returns(records))), **found, "users": float(len(records))}

    return figures


def _size(split: str) -> int:
    from rlpa_env.parts import profiles_of

    return len(profiles_of(split))


def _task(rollout: RolloutConfig) -> dict[str, Any]:
    """Arguments of ``gym.make`` that a run trains and is judged with; its weights and people are not among them."""
    named = {name: getattr(rollout, name) for name in ("max_turns", "cues", "style", "credit")}
    asked = models_of(rollout.env_id, rollout.matcher, rollout.base_url, rollout.model_name)
    return {"max_episode_steps": rollout.max_turns} | named | asked


def models_of(env_id: str, matcher: str, base_url: str | None, model_name: str | None, al_judge: str = "rules") -> dict[str, Any]:
    """Arguments of ``gym.make``: the matcher, where it is not the usual one, and the model behind it, user and judge, or ``al_judge``."""
    chosen = {} if matcher == "lexical" else {"matcher": matcher}
    if "llm" not in (matcher, al_judge) and env_id != "RLPA-LLM-v0":
        return chosen
    if not base_url or not model_name:
        asks = "al_judge='llm'" if al_judge == "llm" else f"matcher={matcher!r}"
        raise ConfigError(
            f"{env_id} with {asks}: expected the base_url and model_name of a served model; got {base_url} and {model_name}. "
            "Name them with --rollout.base-url and --rollout.model-name (eval: --base-url and --model-name)."
        )
    return chosen | {"llm": {"base_url": base_url, "model": model_name}}


def environments(rollout: RolloutConfig) -> Callable[[], gym.Env]:
    """What makes one environment to train in."""
    options = _task(rollout) | {name: getattr(rollout, name) for name in ("split", "profile_weight", "response_weight")}
    return lambda: gym.make(full_id(rollout.env_id), **options)
