"""What of a configuration does nothing in a run, or does not go with its policy, its people or its folder, said before the run begins; and what ended it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpa_agent.checkpoint import recovered
from rlpa_agent.config import (
    GROUP_ALGOS,
    PRESETS,
    ModelConfig,
    OptimConfig,
    PPOConfig,
    RolloutConfig,
    TrainConfig,
)
from rlpa_agent.loading import name_of
from rlpa_agent.registered import is_test
from rlpa_env import ConfigError


def holds_run(out: Path) -> bool:
    """Whether a folder holds a run, or what is left of one."""
    return any(recovered(out / name).exists() for name in ("last", "best"))


def check_new(out: Path, taken: bool) -> None:
    """Raises ConfigError where a run that begins anew would take the place of another."""
    if taken:
        raise ConfigError(f"{out}: expected a new folder; it holds a run. Go on with it (--resume, `Trainer.resume`), or choose another `out`.")


def check_people(split: str) -> None:
    """Raises ConfigError for people to learn from whom results are told on."""
    if is_test(split):
        raise ConfigError(f"split: expected people to train on; got {split!r}. Test users teach nobody, or their scores say nothing.")


def check_policy(policy: Any, config: TrainConfig) -> None:
    """Raises ConfigError where `config.model` asks for what the policy was not made with, or the run's KL would have no start to be measured from."""
    model, rank = config.model, policy.adapter.rank if policy.adapter is not None else 0
    for name, has, make in (
        ("value_grad", policy.value_grad, f"Policy(…, value_grad={model.value_grad!r})"),
        ("gradient_checkpointing", policy.gradient_checkpointing, "Policy(…, gradient_checkpointing=True)"),
        ("lora_rank", rank, f"Policy.from_pretrained(…, lora=LoraSettings({model.lora_rank}, …))"),
    ):
        if has != getattr(model, name) and getattr(model, name):
            raise ConfigError(f"model.{name}: expected {has!r}, that of the policy; got {getattr(model, name)!r}. Make the policy with {make}, or change the setting.")
    held = name_of(policy.rollout_dtype)
    if model.rollout_dtype not in ("auto", "float32", held):
        raise ConfigError(f"model.rollout_dtype: expected {held!r}, that of the policy; got {model.rollout_dtype!r}. Make the policy with Policy(…, rollout_dtype=torch.{model.rollout_dtype}).")
    if model.shard and policy.shards is None:
        raise ConfigError("model.shard: expected a policy that is shared out; got a whole one. Call policy.shard(world) first.")
    asks = [f"ppo.{name}={value}" for name, value in (("beta", config.ppo.beta), ("max_kl", config.ppo.max_kl)) if value]
    if asks and policy.reference is None:
        raise ConfigError(f"policy: expected a frozen reference, for {' and '.join(asks)}; got none. Call policy.freeze_reference(), or set beta=0 and max_kl=None.")


def other_run(config: TrainConfig, found: str) -> str:
    """Why a checkpoint with the configuration hash ``found`` does not go on with ``config``: the settings that differ, where the run has left its own."""
    try:
        before = _flat(json.loads((config.out / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        before = {}
    now = _flat(json.loads(json.dumps(config.as_dict(), default=str)))
    differs = [f"{name} was {before.get(name)!r} and is {own!r}" for name, own in now.items() if name not in ENDS and before.get(name) != own] if before else []
    which = "; ".join(differs) or f"their hashes are {found} and {config.hash()}"
    return f"{config.out / 'last'}: expected a checkpoint of this configuration; {which}. Resume with the same options, or choose another --out."


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    parts = {name: own for name, own in data.items() if isinstance(own, Mapping)}
    return {name: own for name, own in data.items() if name not in parts} | {f"{part}.{name}": own for part, inside in parts.items() for name, own in inside.items()}


def why_ended(config: TrainConfig, figures: Mapping[str, Any]) -> str:
    """What ended a run that no signal and no failure did, by the figures of its last iteration."""
    if figures["stop"]:
        return f"the KL to the start passed ppo.max_kl={config.ppo.max_kl:g}"
    if config.iterations is not None and figures["iteration"] >= config.iterations:
        return f"its {config.iterations} iterations are over (--iterations)"
    ends = [f"{own:,g} {name.replace('_', ' ')}" for name, own in _ends(config.as_dict()).items() if name != "iterations"]
    return f"its {' or '.join(ends)} are used up"


ENDS = ("iterations", "minutes", "action_tokens", "save_every", "keep_rollouts")  # may change from one part of a run to the next


def another_end(config: TrainConfig) -> str | None:
    """For a run that goes on: a line if its rate falls over the whole run, and the run was to end elsewhere when it began."""
    optim, written = config.optim, config.out / "config.json"
    if optim.schedule == "constant" or optim.schedule_iterations is not None or not written.is_file():
        return None
    before, now = _ends(json.loads(written.read_text(encoding="utf-8"))), _ends(config.as_dict())
    if before == now:
        return None
    return (
        f"optim.schedule={optim.schedule!r} follows the end of the run, which was {before} and is {now} from now on: this is not the run "
        "that would have been planned so from its beginning. Set --optim.schedule-iterations for one that can be made longer."
    )


def _ends(config: Mapping[str, Any]) -> dict[str, Any]:
    """What ends a run, and with it a rate that falls to 0."""
    return {name: config[name] for name in ("iterations", "minutes", "action_tokens") if config.get(name) is not None}


def unread_settings(config: TrainConfig, sampled_elsewhere: bool = False) -> list[str]:
    """A line for each setting that was chosen and that nothing reads in this run, whose dialogues a generator may sample."""
    usual = [PPOConfig(), *(preset.ppo for preset in PRESETS.values())]  # what presets set has not been chosen
    compared, algo = config.algo in GROUP_ALGOS, f"algo={config.algo!r}"
    unread = (
        (compared, ("gamma_token", "gamma_turn", "horizon"), f"{algo}, which compares whole returns"),
        (not config.has_critic, ("lam_token", "lam_turn", "lam_critic", "critic_warmup", "critic_steps", "value_clip", "vf_coef"), f"{algo}, which has no critic"),
        (config.ppo.gamma_turn == 0, ("lam_turn", "horizon"), "gamma_turn=0, under which nothing counts that comes after a turn"),
        (config.algo == "reinforce", ("horizon",), algo),
        (config.mode == "official", ("gamma_turn", "lam_turn", "horizon", "profile_paid"), "mode='official', where every turn is a sample of its own"),
        (config.has_critic and config.model.value_grad != "shared", ("vf_coef",), f"model.value_grad={config.model.value_grad!r}, whose critic learns by itself"),
        (config.rollout.server is None and not sampled_elsewhere, ("importance_cap",), "rollouts that are sampled in this process"),
    )
    chosen = {name: getattr(config.ppo, name) for _, names, _ in unread for name in names}
    chosen = {name: value for name, value in chosen.items() if value not in [getattr(ppo, name) for ppo in usual]}
    found = [
        f"ppo.{name}={chosen[name]!r} does nothing with {what}."
        for applies, names, what in unread
        for name in names
        if applies and name in chosen
    ]
    if config.algo == "grpo" and config.ppo.baseline == "episode" and config.ppo.profile_paid == "block":
        found.append("ppo.profile_paid='block' does nothing with algo='grpo', which compares whole dialogues; add --ppo.baseline turn.")
    if not config.has_critic and config.optim.critic_lr not in [OptimConfig().critic_lr, *(preset.optim.critic_lr for preset in PRESETS.values())]:
        found.append(f"optim.critic_lr={config.optim.critic_lr!r} does nothing with {algo}, which has no critic.")
    if not config.model.lora_rank and config.model.lora_alpha != ModelConfig.lora_alpha:
        found.append(f"model.lora_alpha={config.model.lora_alpha} does nothing without LoRA; add --model.lora-rank.")
    if config.optim.schedule == "constant" and config.optim.schedule_iterations is not None:
        found.append(f"optim.schedule_iterations={config.optim.schedule_iterations} does nothing with schedule='constant'.")
    if config.ppo.kl_kind != PPOConfig.kl_kind and config.kl_in == "reward" and config.ppo.kl_kind not in [preset.ppo.kl_kind for preset in PRESETS.values() if preset.kl_in == "reward"]:
        found.append(f"ppo.kl_kind={config.ppo.kl_kind!r} does nothing with the KL in the reward, which is log p - log p_ref there; add --ppo.kl-in loss.")
    if config.ppo.baseline != "episode" and config.algo != "grpo":
        found.append(f"ppo.baseline={config.ppo.baseline!r} does nothing with algo={config.algo!r}; it is grpo's.")
    if config.rollout.window != RolloutConfig.window and config.context.kind != "window":
        found.append(f"rollout.window={config.rollout.window} does nothing with context={config.context.kind!r}; add --context window.")
    return found
