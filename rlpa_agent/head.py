"""Log-probabilities of single tokens from hidden states: the LM head, without ever holding all logits.

Axes: A tokens, H hidden size, V vocabulary. Logits are made in chunks of tokens. What is behind them (temperature, bans, softmax,
entropy) is fp32; the products are too, unless autocast is on and the head is held in bf16, as frozen bases are: then they add up in
fp32 and round to bf16, as sampling does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**25
"""Logits held at once."""


def token_logprobs(
    hidden_AH: Tensor,
    weight_VH: Tensor,
    ids_A: Tensor,
    banned_V: Tensor,
    temperature: float,
    *,
    entropy: bool = False,
    entropy_grad: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability [A] of each token where ``banned_V`` cannot be drawn, and the entropy [A] in nats if asked for; fp32.

    A frozen head needs two products a token for values and gradient: what the gradient wants of the logits is made beside the values.
    A trained one, or an entropy that is differentiated, makes the logits of all but a single chunk again in the backward pass.
    """
    device = hidden_AH.device.type
    frozen = not (weight_VH.requires_grad and torch.is_grad_enabled())
    rounded = not weight_VH.requires_grad and weight_VH.dtype == torch.bfloat16 and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False):
        dtype = torch.bfloat16 if rounded else torch.float32
        hidden_AH, weight_VH = hidden_AH.to(dtype), weight_VH.to(dtype)
        if frozen and not (entropy and entropy_grad):
            logp_A, entropy_A = _FrozenHead.apply(hidden_AH, weight_VH, ids_A, banned_V, temperature, entropy)
        else:
            size = _chunk_size(weight_VH)
            recompute = torch.is_grad_enabled() and len(ids_A) > size
            parts = []
            for hidden, ids in zip(hidden_AH.split(size), ids_A.split(size), strict=True):
                arguments = (hidden, weight_VH, ids, banned_V, temperature, entropy, entropy_grad)
                parts.append(checkpoint(_chunk, *arguments, use_reentrant=False) if recompute else _chunk(*arguments))
            logp_A, entropy_A = (torch.cat(part) for part in zip(*parts, strict=True))
    return logp_A, entropy_A if entropy else None


def _chunk_size(weight_VH: Tensor) -> int:
    return max(1, CHUNK_LOGITS // len(weight_VH))


def _log_softmax(hidden_AH: Tensor, weight_VH: Tensor, banned_V: Tensor, temperature: float) -> Tensor:
    logits_AV = functional.linear(hidden_AH, weight_VH).float() / temperature
    return torch.log_softmax(logits_AV.masked_fill(banned_V, -torch.inf), dim=-1)


def _chunk(
    hidden_AH: Tensor, weight_VH: Tensor, ids_A: Tensor, banned_V: Tensor, temperature: float, entropy: bool, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability [A] and entropy ([A], or [0] where it is not asked for), by autograd."""
    logp_AV = _log_softmax(hidden_AH, weight_VH, banned_V, temperature)
    logp_A = logp_AV.gather(1, ids_A[:, None])[:, 0]
    if not entropy:
        return logp_A, logp_A.new_zeros(0)
    logp_AV = logp_AV if entropy_grad else logp_AV.detach()
    return logp_A, -(logp_AV.exp() * logp_AV.masked_fill(banned_V, 0.0)).sum(-1)


class _FrozenHead(torch.autograd.Function):
    """d log p(id) / d hidden = Σ (1[id] − p) W / τ: known as soon as p is, so nothing of size V is kept or made again."""

    @staticmethod
    def forward(
        ctx: Any, hidden_AH: Tensor, weight_VH: Tensor, ids_A: Tensor, banned_V: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-probability [A] and entropy ([A], or [0] where it is not asked for)."""
        wanted, size = ctx.needs_input_grad[0], min(_chunk_size(weight_VH), len(ids_A))
        logp_A, entropy_A = (hidden_AH.new_zeros(n, dtype=torch.float32) for n in (len(ids_A), len(ids_A) if entropy else 0))
        slope_AH = hidden_AH.new_zeros(hidden_AH.shape if wanted else (0,))
        # Chunks share their memory: on a processor, new pages for every step of every chunk took longer than the arithmetic.
        product_AV, logp_AV, p_AV = (hidden_AH.new_empty((size, len(weight_VH)), dtype=d) for d in (hidden_AH.dtype, torch.float32, torch.float32))
        for begin in range(0, len(ids_A), size or 1):
            part, ids = slice(begin, begin + size), ids_A[begin : begin + size]
            product, logp, p = (buffer[: len(ids)] for buffer in (product_AV, logp_AV, p_AV))
            torch.mm(hidden_AH[part], weight_VH.t(), out=product)
            p.copy_(product).div_(temperature).masked_fill_(banned_V, -torch.inf)
            torch.ops.aten._log_softmax.out(p, -1, False, out=logp)
            logp_A[part] = logp.gather(1, ids[:, None])[:, 0]
            if entropy or wanted:
                torch.exp(logp, out=p)
            if wanted:  # (1 − p) at the token itself, made before anything is rounded: in bf16 a p of .998 is 1
                own_A1 = -torch.expm1(logp_A[part, None])
                slope_AH[part] = product.copy_(p).neg_().scatter_(1, ids[:, None], own_A1.to(product.dtype)) @ weight_VH / temperature
            if entropy:
                entropy_A[part] = -p.mul_(logp.masked_fill_(banned_V, 0.0)).sum(-1)
        ctx.save_for_backward(slope_AH)
        ctx.mark_non_differentiable(entropy_A)
        return logp_A, entropy_A

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_A: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The slope of each token's log-probability, times what flows in."""
        (slope_AH,) = ctx.saved_tensors
        return (upstream_A[:, None] * slope_AH).to(slope_AH.dtype), None, None, None, None, None
