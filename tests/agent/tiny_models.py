"""Small tokenizers, models and an environment that the agent's tests share. Everything is seeded."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import torch
from transformers import Qwen2Config

from rlpa_agent.policy import Policy
from rlpa_agent.tokenizer import train_tokenizer

ANSWER = (
    "<profile>\n- Occupation: baker\n- Age: 34\n</profile>\n\n<response>\nOh, what do you bake?\n</response>"
)

QWEN_LIKE = (
    "{%- if messages[0].role == 'system' -%}"
    "{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- else -%}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role != 'system' or not loop.first -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""The shape of Qwen2.5's template: a default system message, then plain ChatML."""


@cache
def corpus(seed: int = 0) -> tuple[str, ...]:
    """Pseudo-English lines plus the markup, enough for 250 merges."""
    rng = random.Random(seed)
    words = [
        "".join(rng.choice("abcdefghijklmnoprstuwy") for _ in range(rng.randint(2, 7))) for _ in range(300)
    ]
    lines = [" ".join(rng.choice(words) for _ in range(20)) + ".\n" for _ in range(200)]
    return (*lines, *[f"user\nHello, I work as a baker.\nassistant\n{ANSWER}\n"] * 40)


@cache
def tokenizer():
    """512 ids, ChatML without a default system message. Shared: do not modify."""
    return train_tokenizer(corpus(), 512)


def qwen_like_tokenizer():
    """A fresh tokenizer with Qwen2.5's kind of template and further added tokens."""
    fresh = train_tokenizer(corpus(), 500)
    fresh.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|vision_start|>"]})
    fresh.add_tokens(["<tool_call>"])
    fresh.chat_template = QWEN_LIKE
    return fresh


def policy(*, seed=0, hidden=32, layers=2, context=512, sharpness=1.0, **options):
    """A random tiny Qwen2 with grouped queries. ``sharpness`` > 1 makes its distribution less uniform."""
    config = Qwen2Config(
        vocab_size=520,  # eight rows without a token
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    made = Policy.from_config(config, tokenizer(), seed=seed, **({"system_prompt": ""} | options))
    with torch.no_grad():
        made.lm.model.norm.weight.mul_(sharpness)
        for layer in made.lm.model.layers:  # Qwen2 starts these biases at 0, which would hide a lost one
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                projection.bias.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
    made.freeze_reference()
    return made


class Script:
    """An environment with the dialogue interface: says fixed lines, pays by a function of the action text."""

    def __init__(self, lines, *, pay=None, leave_at=None, invalid_at=None, turns=10):
        self.lines, self.turns = tuple(lines), turns
        self.pay = pay or (lambda text, turn: float(len(text)))
        self.leave_at, self.invalid_at = leave_at, invalid_at
        self.actions: list[str] = []

    def reset(self, *, seed=None, options=None):
        self.seed, self.options, self.actions = seed, options, []
        self.messages = [{"role": "system", "content": "sys"}, {"role": "user", "content": "Hello"}]
        return "User: Hello", {"messages": list(self.messages), "turn": 0}

    def step(self, text):
        turn = len(self.actions)
        self.actions.append(text)
        self.messages.append({"role": "assistant", "content": text})
        self.messages.append({"role": "user", "content": self.lines[turn % len(self.lines)]})
        valid = turn != self.invalid_at
        info = {
            "messages": list(self.messages),
            "turn": turn + 1,
            "reward/profile": np.float64(0.25),
            "reward/profile_share": np.float64(0.25),
            "reward/valid": valid,
            "parse_error": "",
            "stop_reason": "user_left" if turn == self.leave_at else "",
        }
        return "", self.pay(text, turn), turn == self.leave_at, turn + 1 >= self.turns or not valid, info
