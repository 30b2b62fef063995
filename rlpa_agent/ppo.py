"""The losses of PPO over action tokens. Pure functions; logp and losses in fp32.

Axis A: action tokens. Every loss is a *sum*; the caller divides by the number of action tokens of the whole optimizer
step, over micro-batches and ranks, so that the step is the same however it was cut. Entries outside ``mask_A`` are
replaced, never multiplied: a NaN there changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KL_KINDS = ("k1", "k2", "k3")


class PolicyLoss(NamedTuple):
    """Sum of the clipped surrogate with what one wants to watch."""

    loss: Tensor  # scalar, sum over unmasked tokens
    ratio_A: Tensor  # importance ratio w, detached; 1 where masked
    clipped: Tensor  # number of unmasked tokens whose gradient the clip removed


def _wide(values: Tensor) -> Tensor:
    """At least fp32: half precision is for trunks, not for losses."""
    return values if values.dtype == torch.float64 else values.float()


def _kept(values_A: Tensor, mask_A: Tensor | None, fill: float = 0.0) -> Tensor:
    return values_A if mask_A is None else torch.where(mask_A, values_A, torch.full_like(values_A, fill))


def policy_loss(
    logp_new_A: Tensor,
    logp_old_A: Tensor,
    advantages_A: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    mask_A: Tensor | None = None,
    weights_A: Tensor | None = None,
) -> PolicyLoss:
    """−min(wA, clip(w, 1−ε_l, 1+ε_h)A), summed (Schulman et al. 2017, eq. 7).

    Args:
        dual_clip: for A < 0 the loss is at most dual_clip·|A| (Ye et al. 2020); None: off.
        weights_A: truncated importance weights of an outside generator, constant.
    """
    log_ratio_A = _kept(_wide(logp_new_A) - _wide(logp_old_A), mask_A)
    advantages_A = _kept(_wide(advantages_A), mask_A)
    ratio_A = torch.exp(log_ratio_A)
    plain_A = -ratio_A * advantages_A
    bounded_A = -ratio_A.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_A
    loss_A = torch.maximum(plain_A, bounded_A)
    clipped_A = bounded_A > plain_A
    if dual_clip is not None:
        if dual_clip <= 1.0:
            raise ValueError(f"dual_clip: expected more than 1; got {dual_clip}.")
        ceiling_A = -dual_clip * advantages_A
        low_A = (advantages_A < 0) & (loss_A > ceiling_A)
        loss_A = torch.where(low_A, ceiling_A, loss_A)
        clipped_A = clipped_A | low_A
    if weights_A is not None:
        loss_A = loss_A * _kept(_wide(weights_A), mask_A)
    return PolicyLoss(loss_A.sum(), ratio_A.detach(), clipped_A.sum())


def value_loss(
    values_A: Tensor,
    returns_A: Tensor,
    old_values_A: Tensor | None = None,
    *,
    clip: float | None = None,
    mask_A: Tensor | None = None,
) -> Tensor:
    """½(V − R)², summed; with ``clip`` the larger of that and ½(V_clipped − R)², V held within ±clip of V_old."""
    error_A = _kept(_wide(values_A) - _wide(returns_A), mask_A)
    loss_A = error_A**2
    if clip is not None:
        if old_values_A is None:
            raise ValueError("value_loss: expected old_values_A together with clip; got None.")
        step_A = _kept(_wide(values_A) - _wide(old_values_A), mask_A).clamp(-clip, clip)
        bounded_A = _kept(_wide(old_values_A) + step_A - _wide(returns_A), mask_A)
        loss_A = torch.maximum(loss_A, bounded_A**2)
    return 0.5 * loss_A.sum()


def kl_estimate(logp_A: Tensor, logp_ref_A: Tensor, kind: str = "k1") -> Tensor:
    """Per-token estimates of KL(π‖ref) at tokens drawn from π (Schulman 2020): [A] -> [A].

    With d = logp − logp_ref: k1 = d, k2 = ½d², k3 = e^(−d) − 1 + d.
    """
    d_A = _wide(logp_A) - _wide(logp_ref_A)
    if kind == "k1":
        return d_A
    if kind == "k2":
        return 0.5 * d_A**2
    if kind == "k3":
        return torch.expm1(-d_A) + d_A
    raise ValueError(f"kl kind: expected one of {KL_KINDS}; got {kind!r}.")


def kl_loss(
    logp_new_A: Tensor, logp_ref_A: Tensor, logp_old_A: Tensor, kind: str, *, mask_A: Tensor | None = None
) -> Tensor:
    """Sum whose gradient is that of KL(π‖ref), on- and off-policy (tokens drawn from π_old, w = π/π_old).

    k2: stop_grad(w)·½d². k3: w·(e^(−d) − 1 + d) with gradient through w. k1 has a zero gradient on-policy as a loss,
    and is refused.
    """
    if kind not in ("k2", "k3"):
        raise ValueError(f"kl in the loss: expected 'k2' or 'k3'; got {kind!r}. k1 belongs into the reward.")
    d_A = _kept(_wide(logp_new_A) - _wide(logp_ref_A), mask_A)
    w_A = torch.exp(_kept(_wide(logp_new_A) - _wide(logp_old_A), mask_A))
    if kind == "k2":
        return (w_A.detach() * 0.5 * d_A**2).sum()
    return (w_A * (torch.expm1(-d_A) + d_A)).sum()


def approximate_kl(logp_new_A: Tensor, logp_old_A: Tensor) -> Tensor:
    """Sum over tokens of k3 between the policy now and at sampling time: what target_kl watches."""
    d_A = _wide(logp_new_A) - _wide(logp_old_A)
    return (torch.expm1(d_A) - d_A).sum()
