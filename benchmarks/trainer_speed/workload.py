"""What is timed: a Qwen2 of about 7 million parameters, dialogues of exactly so many tokens, and our trainer on them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlpa_agent.config import (
    EvalConfig,
    ModelConfig,
    OptimConfig,
    PPOConfig,
    RolloutConfig,
    TrainConfig,
    shipped_start,
)
from rlpa_agent.policy import Policy
from rlpa_agent.trainer import Trainer

WORDS = (
    "the house by river was quiet when morning came and people went out to work talk about food music trains rain garden "
    "books old friends new plans long walks short trips good bread cold water warm light open doors first last every little"
).split()


@dataclass(frozen=True)
class Size:
    """How much of it."""

    prompts: int = 16
    completions: int = 4  # of each prompt
    tokens: int = 64  # of each answer, exactly
    user_tokens: int = 32  # of each message to the policy, exactly
    layers: int = 8
    hidden: int = 256
    turns: int = 10  # where dialogues are held
    dialogue_tokens: int = 24  # of each answer in them
    growth: tuple[int, ...] = (5, 10, 20, 40)
    repeats: int = 5

    @property
    def dialogues(self) -> int:
        """Of an iteration."""
        return self.prompts * self.completions


SMOKE = Size(2, 2, 4, 6, layers=1, hidden=32, turns=2, dialogue_tokens=4, growth=(2, 4), repeats=1)


def build_model(folder: Path, size: Size, seed: int) -> Path:
    """Write a random Qwen2 with the tokenizer of the shipped start, as `Policy.save` does; it loads in transformers."""
    from transformers import AutoTokenizer, Qwen2Config

    tokenizer = AutoTokenizer.from_pretrained(shipped_start())
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    Policy.from_config(config, tokenizer, system_prompt="", seed=seed, reference=False).save(folder)
    return folder


def policy_from(folder: Path | str, size: Size) -> Policy:
    """A policy that never ends a turn by itself, so that answers have exactly the tokens that they are given."""
    policy = Policy.from_pretrained(folder, system_prompt="", temperature=1.0, max_user_tokens=size.user_tokens)
    policy.banned_V[list(policy.chat.end_ids)] = True
    return policy


def said(seed: int, turn: int) -> str:
    """A user's message, longer than what is kept of it."""
    rng = np.random.default_rng([seed, turn])
    return " ".join(WORDS[int(i)] for i in rng.integers(len(WORDS), size=2 * 32))


def paid(text: str) -> float:
    """What an answer earns: something that differs between answers."""
    return text.count("e") / max(1, len(text))


def check_learned(head_ratio: float) -> None:
    """Raise RuntimeError unless the policy learned in what was measured: while only its critic does, the LM head does not run."""
    if head_ratio != 1.0:
        raise RuntimeError(f"expected an update of the policy, with the LM head at every action token and no other (head_ratio 1); got {head_ratio:g}")


class Talk:
    """An environment of ``turns`` turns that costs nothing."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        """Gymnasium's."""
        self.seed, self.turn = seed or 0, 0
        return said(self.seed, 0), {}

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Gymnasium's."""
        self.turn += 1
        return said(self.seed, self.turn), paid(text), False, self.turn == self.turns, {}


def config_of(size: Size, *, algo: str, turns: int, tokens: int, seed: int = 0, same: bool = True, dialogues: int | None = None) -> TrainConfig:
    """Our configuration; ``same``: with precision, β and no early stop as on the other side, else our defaults."""
    group = size.completions if algo == "grpo" else None
    count = dialogues or size.dialogues
    config = TrainConfig(
        rollout=RolloutConfig(
            dialogues=count, concurrent=count, group=group, max_turns=turns, max_new_tokens=tokens, max_user_tokens=size.user_tokens
        ),
        eval=EvalConfig(every=0),
        algo=algo,
        seed=seed,
        out=Path("unused"),  # nothing is written: iterations are run without a log
    )
    if not same:
        return config
    return dataclasses.replace(
        config,
        model=ModelConfig(update_dtype="float32"),
        # What is sampled and what is learned compute alike in fp32, so the logp of sampling is the old one, and not computed twice.
        ppo=PPOConfig(beta=0.01, epochs=2, minibatches=4, target_kl=None, max_kl=None, critic_warmup=0, old_logp="sampled"),
        optim=OptimConfig(policy_lr=1e-4, warmup_iterations=0),
    )


class Ours:
    """Our trainer; every call is an iteration."""

    def __init__(self, folder: Path, size: Size, **options: Any) -> None:
        self.config = config_of(size, **options)
        turns = self.config.rollout.max_turns
        self.trainer = Trainer(self.config, policy_from(folder, size), lambda: Talk(turns), quiet=True)

    def __call__(self) -> dict[str, Any]:
        """Figures of one iteration. Raises RuntimeError unless it had exactly the tokens that are compared."""
        figures = self.trainer.one_iteration()
        rollout = self.config.rollout
        wanted = rollout.dialogues * rollout.max_turns * rollout.max_new_tokens
        if figures["action_tokens"] != wanted:
            raise RuntimeError(f"expected {wanted} sampled tokens; got {figures['action_tokens']}")
        return figures
