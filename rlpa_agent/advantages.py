"""Rewards per token, generalised advantage estimation over chains of action tokens, whitening. Pure functions.

Axes: T action tokens of one chain in time order, A action tokens of all chains one after another, C chains.
A chain holds action tokens only. User tokens between two turns belong to the environment: they have no step, no value
and no discount here, so nothing decays or is cut across them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def gae(
    rewards_T: Tensor,
    values_T: Tensor,
    turn_T: Tensor,
    *,
    gamma_token: float,
    gamma_turn: float,
    lam_token: float,
    lam_turn: float,
    bootstrap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) with two kinds of step.

    From the last token of a turn to the first of the next the discount is ``gamma_turn`` and the trace ``lam_turn``;
    between tokens of one turn they are ``gamma_token`` and ``lam_token``.

    Args:
        rewards_T: reward of each action token.
        values_T: value before each action token.
        turn_T: turn number of each action token, non-decreasing; boundaries are where it changes.
        bootstrap: value of the state after the last token; 0 where the episode is over.

    Returns:
        (advantages_T, returns_T) in the dtype of ``rewards_T``; returns are advantages + values.

    Raises:
        ValueError: the three tensors are not 1-D and of one length, or turns run backwards.

    >>> a, r = gae(torch.tensor([0., 1.]), torch.tensor([.5, .5]), torch.tensor([0, 0]),
    ...            gamma_token=1., gamma_turn=1., lam_token=1., lam_turn=1.)
    >>> a.tolist(), r.tolist()
    ([0.5, 0.5], [1.0, 1.0])
    """
    if not (rewards_T.ndim == 1 and rewards_T.shape == values_T.shape == turn_T.shape):
        raise ValueError(
            "gae: expected three 1-D tensors of one length; got "
            f"{tuple(rewards_T.shape)}, {tuple(values_T.shape)} and {tuple(turn_T.shape)}."
        )
    turns = turn_T.tolist()
    if any(later < earlier for earlier, later in pairwise(turns)):
        raise ValueError("gae: expected turn numbers that never fall; put the chain into time order first.")
    rewards, values = rewards_T.tolist(), values_T.tolist()  # python floats are exact for fp32 and fp64
    advantages = [0.0] * len(rewards)
    trace, next_value = 0.0, float(bootstrap)
    for t in reversed(range(len(rewards))):
        last_of_turn = t + 1 == len(turns) or turns[t + 1] != turns[t]
        g, lam = (gamma_turn, lam_turn) if last_of_turn else (gamma_token, lam_token)
        trace = rewards[t] + g * next_value - values[t] + g * lam * trace
        advantages[t], next_value = trace, values[t]
    advantages_T = torch.tensor(advantages, dtype=torch.float64)
    returns_T = advantages_T + values_T.to(torch.float64)
    return advantages_T.to(rewards_T.dtype), returns_T.to(rewards_T.dtype)


def token_rewards(reward_A: Tensor, kl_A: Tensor | None, beta: float) -> Tensor:
    """ρ_t = −β (logp_old − logp_ref)_t + r_k at the last action token of turn k (``reward_A``, 0 elsewhere)."""
    return reward_A if kl_A is None or beta == 0.0 else reward_A - beta * kl_A


def chain_gae(
    rewards_A: Tensor, values_A: Tensor, turn_A: Tensor, starts_C: Tensor, bootstrap_C: Tensor, **discounts: float
) -> tuple[Tensor, Tensor]:
    """`gae` on every chain. ``starts_C`` are the offsets of the chains in the flat arrays; [A] -> ([A], [A])."""
    ends = [*starts_C.tolist()[1:], len(rewards_A)]
    parts = [
        gae(rewards_A[a:b], values_A[a:b], turn_A[a:b], bootstrap=float(boot), **discounts)
        for a, b, boot in zip(starts_C.tolist(), ends, bootstrap_C.tolist(), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def whiten(values_A: Tensor, mask_A: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """(x − mean) / sqrt(variance + eps) over the unmasked entries, population variance; masked entries become 0.

    >>> whiten(torch.tensor([1., 2., 3., 99.]), torch.tensor([True, True, True, False])).tolist()  # doctest: +ELLIPSIS
    [-1.2247..., 0.0, 1.2247..., 0.0]
    """
    mask_A = torch.ones_like(values_A, dtype=torch.bool) if mask_A is None else mask_A
    count = mask_A.sum()
    if count == 0:
        raise ValueError("whiten: expected at least one unmasked entry; got none.")
    kept_A = torch.where(mask_A, values_A, torch.zeros_like(values_A))
    mean = kept_A.sum() / count
    variance = torch.where(mask_A, (values_A - mean) ** 2, torch.zeros_like(values_A)).sum() / count
    return torch.where(mask_A, (values_A - mean) / torch.sqrt(variance + eps), torch.zeros_like(values_A))


def explained_variance(values_A: Tensor, returns_A: Tensor) -> float:
    """1 − Var(returns − values) / Var(returns): 1 is a perfect critic, 0 one that knows only the mean."""
    spread = returns_A.var(unbiased=False)
    return float(1.0 - (returns_A - values_A).var(unbiased=False) / spread) if spread > 0 else 0.0
