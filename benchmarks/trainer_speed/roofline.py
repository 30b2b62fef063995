"""How much of what the processor can multiply the update uses: the arithmetic it needs over what a matrix product gets.

Counted is what no implementation can leave out: in the trunk 2 operations a weight and token forward, 2 backward through the
inputs, 2 more for weights that are trained; the LM head, and what follows attention in the last layer, at sampled tokens alone;
causal attention. What is computed twice (gradient checkpointing) is not counted, nor are norms, softmax and the critic's head.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from workload import check_learned

from rlpa_agent.batch import Batch, make_batch
from rlpa_agent.cli import load_policy, policy_path
from rlpa_agent.config import PRESETS, SHIPPED, TrainConfig
from rlpa_agent.learner import Learner
from rlpa_agent.policy import Policy
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_agent.trunk import behind_attention, layers_of

SIDE = 2048
"""Of the square matrices whose product is the yardstick."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations on one batch."""

    forward: float
    backward: float
    reference: float  # forward through the frozen start, which under LoRA is the base without adapters


def work_of(policy: Policy, batch: Batch) -> Work:
    """Of one pass forward, one backward and one of the reference over the whole batch."""
    config, trained = policy.lm.config, set(map(id, policy.parameters_policy()))
    embedding, head = policy.lm.get_input_embeddings().weight, policy.lm.get_output_embeddings().weight
    matrices = [weight for weight in policy.lm.parameters() if weight.ndim == 2 and weight is not embedding and weight is not head]
    lengths = [len(row) for row in batch.rows]
    last = {id(weight) for part in behind_attention(layers_of(policy.lm)[-1]) for weight in part.parameters()}
    uses = {id(weight): weight.numel() * (batch.tokens if id(weight) in last else sum(lengths)) for weight in matrices}
    learned = sum(count for weight, count in uses.items() if weight in trained)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Queries with keys and weights with values: 2 · 2 operations for each of n(n + 1)/2 pairs.
    attention = config.num_hidden_layers * config.num_attention_heads * size * sum(2 * n * (n + 1) for n in lengths)
    trunk, heads = 2 * sum(uses.values()), 2 * head.numel() * batch.tokens
    weights = 2 * learned + (heads if id(head) in trained else 0)
    forward, adapters = trunk + heads + attention, 2 * learned if policy.adapter is not None else 0
    return Work(forward, trunk + heads + 2 * attention + weights, forward - adapters)


def batch_of(policy: Policy, rows: int, turns: int, fed: int, sampled: int, seed: int) -> Batch:
    """Dialogues of random tokens: each turn ``fed`` tokens of context, then ``sampled`` of the policy's."""
    rng = np.random.default_rng(seed)
    dialogues = []
    for _ in range(rows):
        context, made = rng.integers(100, 1000, size=0), []
        for _ in range(turns):
            context = np.concatenate([context, rng.integers(100, 1000, size=fed)])
            action = rng.integers(100, 1000, size=sampled)
            made.append(Turn(context, action, np.zeros(sampled, np.float32), float(rng.random())))
            context = np.concatenate([context, action])
        dialogues.append(Trajectory(tuple(made), context, False, True))
    return make_batch(dialogues, max_turns=turns)


def product_rate(dtype: torch.dtype, seconds: float) -> float:
    """Operations a second of a product of square matrices, repeated for so long."""
    left, right = (torch.ones(SIDE, SIDE, dtype=dtype) for _ in range(2))
    done, began = 0, time.perf_counter()
    while not done or time.perf_counter() - began < seconds:
        torch.mm(left, right)
        done += 1
    return 2.0 * SIDE**3 * done / (time.perf_counter() - began)


def config_for(model: str | None, work: Path) -> TrainConfig:
    """The preset's update in one step, of the shipped start or, with LoRA, of another model."""
    preset = PRESETS["tiny" if model is None else "qwen2.5-0.5b"]
    path = SHIPPED if model is None else model
    ppo = dataclasses.replace(preset.ppo, epochs=1, minibatches=1, critic_steps=0, target_kl=None, max_kl=None, critic_warmup=0)
    return dataclasses.replace(preset, model=dataclasses.replace(preset.model, path=path), ppo=ppo, out=work)


def roofline(model: str | None, work: Path, *, pairs: int, rows: int, turns: int, fed: int, sampled: int, seed: int) -> dict[str, Any]:
    """Shares of the yardstick that whole updates and the gradient's part of them reach, pair by pair; the first pair is left out."""
    config = config_for(model, work)
    policy = load_policy(config, policy_path(config.model.path))
    learner = Learner(policy, config)
    batch = batch_of(policy, rows, turns, fed, sampled, seed)
    needed, dtype = work_of(policy, batch), getattr(torch, learner.update_dtype)
    scoring = needed.forward + (needed.reference if policy.reference is not None else 0)
    shares: dict[str, list[float]] = {"update": [], "scoring": [], "gradient": []}
    rates = []
    for pair in range(pairs + 1):
        began = time.perf_counter()
        learner.estimate(batch, pair)
        scored = time.perf_counter() - began
        stats = learner.update(batch, pair)[1]  # scores again, and steps
        check_learned(stats.head_ratio)
        seconds = stats.seconds
        rates.append(product_rate(dtype, min(2.0, seconds)))
        learned = seconds - scored
        for name, amount, taken in (
            ("update", scoring + needed.forward + needed.backward, seconds),
            ("scoring", scoring, scored),
            ("gradient", needed.forward + needed.backward, learned),
        ):
            shares[name].append(amount / taken / rates[-1])
    figures: dict[str, Any] = {name: {"median": median(values[1:]), "all": [round(value, 4) for value in values[1:]]} for name, values in shares.items()}
    return figures | {
        "model": "shipped" if model is None else Path(model).name,
        "dtype": learner.update_dtype,
        "row_tokens": len(batch.rows[0]),
        "teraflop_an_update": (scoring + needed.forward + needed.backward) / 1e12,
        "product_gigaflop_per_second": median(rates[1:]) / 1e9,
    }
