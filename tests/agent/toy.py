"""Toy environments whose answers are known, and a character-level policy that plays them."""

from __future__ import annotations

import string
from functools import cache

import torch
from transformers import Qwen2Config

from rlpa_agent.config import (
    EvalConfig,
    ModelConfig,
    OptimConfig,
    PPOConfig,
    RolloutConfig,
    TrainConfig,
)
from rlpa_agent.policy import Policy
from rlpa_agent.tokenizer import SPECIALS, TEMPLATE


@cache
def characters():
    """One id a printable character; ChatML. Shared: do not modify."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = {character: i for i, character in enumerate(string.printable[:95] + "\n")}
    tokenizer = Tokenizer(models.WordLevel(alphabet, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIALS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def char_policy(actions: str, *, seed: int = 0, hidden: int = 32, layers: int = 2, **options) -> Policy:
    """A random tiny Qwen2 that can say only the characters ``actions``."""
    tokenizer = characters()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    policy = Policy.from_config(config, tokenizer, seed=seed, **({"system_prompt": ""} | options))
    allowed = tokenizer.convert_tokens_to_ids(list(actions))
    policy.banned_V = torch.ones_like(policy.banned_V)
    policy.banned_V[allowed] = False
    policy.freeze_reference()
    return policy


class ToyEnv:
    """An environment from a function: ``play(kind, said) -> (reward of the newest action, user's answer)``.

    ``kind`` is 0 or 1, drawn by the seed; it is hidden unless the two ``openings`` differ. ``said`` is the string of
    actions so far.
    """

    def __init__(self, play, turns: int, openings: str = "hh") -> None:
        self.play, self.turns, self.openings = play, turns, openings

    def reset(self, *, seed=None, options=None):
        self.kind, self.said = (seed * 2654435761 >> 7) & 1, ""
        self.messages = [{"role": "user", "content": self.openings[self.kind]}]
        return "", {"messages": list(self.messages)}

    def step(self, text):
        self.said += text[:1]
        reward, answer = self.play(self.kind, self.said)
        self.messages += [{"role": "assistant", "content": text}, {"role": "user", "content": answer}]
        return "", reward, False, len(self.said) >= self.turns, {"messages": list(self.messages)}


def toy_config(tmp_path, turns: int, **changes) -> TrainConfig:
    """A small fp32 configuration; ``changes`` by group: ppo={...}, optim={...}, rollout={...}."""
    rollout = {"dialogues": 64, "concurrent": 64, "max_turns": turns, "max_new_tokens": 1} | changes.pop("rollout", {})
    ppo = {"beta": 0.0, "critic_warmup": 0, "target_kl": None, "max_kl": None} | changes.pop("ppo", {})
    optim = {"policy_lr": 1e-3, "critic_lr": 1e-3, "warmup_iterations": 0} | changes.pop("optim", {})
    return TrainConfig(
        model=ModelConfig(**({"update_dtype": "float32"} | changes.pop("model", {}))),
        rollout=RolloutConfig(**rollout),
        ppo=PPOConfig(**ppo),
        optim=OptimConfig(**optim),
        eval=EvalConfig(every=0),
        out=tmp_path / "run",
        save_every=10**6,
        **changes,
    )
