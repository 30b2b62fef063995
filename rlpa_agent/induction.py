"""A fresh Qwen2 that can copy from its first step: look-back and induction heads written into its random weights.

Copying "the value that was told" takes a circuit of two layers (induction heads, arXiv 2209.11895): one notes at every
token which tokens came before it, the next looks for a place whose past equals the present, and repeats what follows
there. Gradient descent finds it in the end, but spends most of a small budget on the search. Here it is the starting
point, and the rest of the weights, which is all that training then has to find, stays random.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlpa_env.errors import ConfigError

REACH = 3
"""How many tokens back the first layer looks; the heads of the second match one, two and three tokens."""


@torch.no_grad()
def induct(lm: Any, *, gap: float = 4.0, pairs: int = 6, note: float = 0.06, sharp: float = 5.0, seed: int = 0) -> None:
    """Write the circuit into a freshly initialised Qwen2 (at least three layers and three key heads, no groups).

    ``note`` is the size of what a look-back head adds to the stream, next to token embeddings of 0.02 an entry;
    ``gap`` and ``sharp`` scale the scores of the two kinds of head. Every other output projection becomes zero, so
    that nothing drowns the circuit at first. RoPE turns fast pairs too much to compare tokens far apart: contents are
    compared on the slower half of the pairs, so ``rope_theta`` should be large beside the context length.
    """
    config, layers = lm.config, lm.model.layers
    size, heads = layers[0].self_attn.head_dim, config.num_attention_heads
    if len(layers) < 3 or heads < REACH or heads != config.num_key_value_heads or config.hidden_size < 3 * size:
        raise ConfigError(
            f"model: expected at least three layers and {REACH} heads, each with a key head of its own; got "
            f"{len(layers)} layers, {heads} heads, {config.num_key_value_heads} key heads of {size}"
        )
    for layer in layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size, generator=generator))[0].T
    width = size // 2
    token, *noted = basis[: width * (REACH + 1)].split(width)  # where a token is read, and where its past is noted
    theirs = basis[width * (REACH + 1) :][:size]  # where a repeated token is read
    _look_back(lm, token, noted, gap, pairs, note)
    quarter = size // 4
    slow = torch.cat([torch.arange(2 * quarter - quarter, 2 * quarter), torch.arange(size - quarter, size)])
    for layer in layers[1:3]:
        for head, matched in enumerate((1, 2, 3)):
            _match(layer.self_attn, head, slow, [token, *noted], matched, sharp)
            rows = slice(head * size, head * size + len(theirs))
            layer.self_attn.v_proj.weight[head * size : (head + 1) * size] = 0
            layer.self_attn.v_proj.weight[rows] = theirs
            if layer is layers[1]:  # the third layer is ready to look, and finds for itself what to pass on
                layer.self_attn.o_proj.weight[:, rows] = note * theirs.T


def _look_back(lm: Any, token: Tensor, noted: list[Tensor], gap: float, pairs: int, note: float) -> None:
    """Head i of the first layer attends i + 1 tokens back and notes what stands there.

    Constant query and key biases u rotated by RoPE score a pair of positions by their distance alone,
    sum_i |u_i|^2 cos((distance - d) theta_i): over the fastest frequencies that is a sharp peak at d.
    """
    attention = lm.model.layers[0].self_attn
    size = attention.head_dim
    height = (gap * size**0.5) ** 0.5
    for head, place in enumerate(noted):
        rows = slice(head * size, (head + 1) * size)
        angles = -(head + 1) * lm.model.rotary_emb.inv_freq[:pairs]
        query, key = attention.q_proj.bias[rows], attention.k_proj.bias[rows]
        query.zero_()
        key.zero_()
        key[:pairs] = height
        query[:pairs] = height * angles.cos()
        query[size // 2 : size // 2 + pairs] = height * angles.sin()
        attention.q_proj.weight[rows] *= 0.1
        attention.k_proj.weight[rows] *= 0.1
        attention.v_proj.weight[rows] = 0
        attention.v_proj.weight[head * size : head * size + len(token)] = token
        attention.o_proj.weight[:, head * size : head * size + len(token)] = note * place.T


def _match(attention: Any, head: int, slow: Tensor, past: list[Tensor], matched: int, sharp: float) -> None:
    """This head attends to places whose ``matched`` tokens before equal the present one and those before it."""
    size = attention.head_dim
    rows = slice(head * size, (head + 1) * size)
    query, key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
    query.zero_()
    key.zero_()
    for distance, part in enumerate(torch.arange(len(slow)).chunk(matched)):
        # what is noted stands out three times as much as the token itself
        query[slow[part]] = sharp * past[distance][part] * (1.0 if distance == 0 else 0.33)
        key[slow[part]] = past[distance + 1][part]
