"""From a configuration to what a run is made of: its policy, the environments it learns in, the figures it is judged by on held-out users, the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rlpa_agent.config import SHIPPED, RolloutConfig, TrainConfig, shipped_start
from rlpa_env import ConfigError, instructions
from rlpa_env.errors import unknown_choice
from rlpa_env.setting import made


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
    return lambda: made(rollout.env_id, **options)


def policy_path(name: str) -> str:
    """Where a policy lies: the shipped start, the newest good checkpoint of a run, a policy folder, or a model's name."""
    from rlpa_agent.checkpoint import checkpointed_policy, recovered

    if name == SHIPPED:
        return str(shipped_start())
    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1 or (path.parent != Path() and path.parent.is_dir())):
        beside = sorted(other.name for other in path.parent.iterdir() if other.is_dir()) if path.parent.is_dir() and path.parent != Path(path.anchor) else []
        raise unknown_choice(f"policy: {path.parent}", path.name, beside) if beside else ConfigError(f"policy: expected a folder; {name} does not exist.")
    plain = any((path / part).is_file() for part in ("config.json", "adapter_config.json")) and not any(recovered(path / name).exists() for name in ("last", "best"))
    return str(checkpointed_policy(path)) if path.is_dir() and not plain else name


def build_trainer(config: TrainConfig, *, resume: bool = False, quiet: bool = False) -> Any:
    """A `Trainer` with its policy, environments and validation; nothing is written yet."""
    from rlpa_agent.checkpoint import base_dtype, checkpointed_policy, seed_random
    from rlpa_agent.checks import check_new, check_people, holds_run
    from rlpa_agent.loading import flush_denormals
    from rlpa_agent.served import VllmGenerator
    from rlpa_agent.trainer import Trainer
    from rlpa_agent.world import World

    flush_denormals()
    world, rollout = World.from_environment(), config.rollout
    check_people(rollout.split)
    check_new(config.out, not resume and holds_run(config.out))  # before a model is loaded
    source = str(checkpointed_policy(config.out, "last")) if resume else policy_path(config.model.path)
    policy = load_policy(config, source, base_dtype(config, world, resume))
    if config.model.shard:
        policy.shard(world)
    judge = validation(config) if config.eval.every else None
    generator = None
    if rollout.server is not None:
        ends, banned = policy.chat.end_ids, policy.banned_V.nonzero()[:, 0].tolist()
        generator = VllmGenerator(rollout.server, config.out / f"served-{world.rank}", end_ids=ends, banned_ids=banned)
    trainer = Trainer(config, policy, environments(rollout), judge, quiet, world, generator)
    seed_random(config.seed, world.rank)
    if resume:
        trainer.resume()
    return trainer


def load_policy(config: TrainConfig, source: str, base_dtype: Any = None) -> Any:
    """The policy that a run trains, with one constant system prompt; ``base_dtype``: what "auto" stands for, None: measure it."""
    import torch

    from rlpa_agent.chat import Chat
    from rlpa_agent.lora import LoraSettings
    from rlpa_agent.policy import Policy

    model, rollout = config.model, config.rollout
    policy = Policy.from_pretrained(
        source, device=model.device,
        lora=LoraSettings(model.lora_rank, model.lora_alpha) if model.lora_rank else None,
        dtype=base_dtype if model.base_dtype == "auto" else getattr(torch, model.base_dtype),
        rollout_dtype=None if model.rollout_dtype == "auto" else getattr(torch, model.rollout_dtype),
        gradient_checkpointing=model.gradient_checkpointing,
        seed=config.seed, temperature=rollout.temperature, value_grad=model.value_grad, max_user_tokens=rollout.max_user_tokens,
    )
    if policy.adapter is not None and not model.lora_rank:
        has = f"expected {policy.adapter.rank}, that of the adapter in {source}"
        raise ConfigError(f"model.lora_rank: {has}; got 0, which would train all weights. Add --model.lora-rank {policy.adapter.rank} (of sft and dpo: --lora-rank).")
    if policy.system_prompt is None:
        policy.chat = Chat(policy.tokenizer, instructions(rollout.max_turns), rollout.max_user_tokens)
    policy.chat.state_limit(rollout.max_turns)
    policy.take_on(config)
    return policy
