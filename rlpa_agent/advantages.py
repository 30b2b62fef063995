"""Rewards per token, advantages over chains of action tokens (GAE, group baselines, token returns), whitening.

Pure functions. Axes: T action tokens of one chain in time order, A action tokens of all chains one after another,
C chains, K turns.
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
        (advantages_T, returns_T) in the dtype and on the device of ``rewards_T``; returns are advantages + values. Neither carries a gradient.

    Raises:
        ValueError: the three tensors are not 1-D and of one length, rewards or values are no floats, or turns run backwards.

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
    if not (rewards_T.is_floating_point() and values_T.is_floating_point()):
        raise ValueError(f"gae: expected rewards and values that are floats; got {rewards_T.dtype} and {values_T.dtype}.")
    rewards, values = rewards_T.tolist(), values_T.tolist()  # python floats are exact for fp32 and fp64
    advantages = [0.0] * len(rewards)
    trace, next_value = 0.0, float(bootstrap)
    for t in reversed(range(len(rewards))):
        last_of_turn = t + 1 == len(turns) or turns[t + 1] != turns[t]
        g, lam = (gamma_turn, lam_turn) if last_of_turn else (gamma_token, lam_token)
        trace = rewards[t] + g * next_value - values[t] + g * lam * trace
        advantages[t], next_value = trace, values[t]
    advantages_T = torch.tensor(advantages, dtype=torch.float64)
    returns_T = advantages_T + values_T.detach().to("cpu", torch.float64)  # a target: no gradient flows back through it
    return advantages_T.to(rewards_T), returns_T.to(rewards_T)


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


def turn_returns(reward_A: Tensor, turn_A: Tensor, starts_C: Tensor) -> Tensor:
    """G_k = Σ_{j≥k} r_j of every chain: [A] -> [C, K]; 0 after a chain's last turn.

    >>> turn_returns(torch.tensor([0., 1., 2., 5.]), torch.tensor([0, 0, 1, 0]), torch.tensor([0, 3])).tolist()
    [[3.0, 2.0], [5.0, 0.0]]
    """
    paid_CK = torch.zeros(len(starts_C), int(turn_A.max()) + 1, dtype=torch.float64)
    paid_CK.index_put_((_chain_of(starts_C, len(reward_A)), turn_A), reward_A.to(torch.float64), accumulate=True)
    return paid_CK.flip(1).cumsum(1).flip(1)


def _chain_of(starts_C: Tensor, size: int) -> Tensor:
    """Chain [A] of each action token."""
    return torch.searchsorted(starts_C, torch.arange(size), right=True) - 1


def rloo(return_CK: Tensor, group_C: Tensor) -> Tensor:
    """A_{k,i} = G_{k,i} − mean of the G_k of the other chains of its group (REINFORCE leave-one-out, Ahmadian et al. 2024).

    A chain alone in its group has nothing to be compared with: 0. [C, K] -> [C, K].
    """
    sum_CK, count_C1, _ = _group_moments(return_CK, group_C)
    others_CK = (sum_CK - return_CK) / (count_C1 - 1).clamp(min=1)
    return torch.where(count_C1 > 1, return_CK - others_CK, torch.zeros_like(return_CK))


def grpo(return_CK: Tensor, group_C: Tensor, eps: float = 1e-6) -> Tensor:
    """A_{k,i} = (G_{k,i} − mean) / (std + eps) over its group, population std (Shao et al. 2024). [C, K] -> [C, K]."""
    sum_CK, count_C1, index_C = _group_moments(return_CK, group_C)
    off_CK = return_CK - sum_CK / count_C1
    square_CK = torch.zeros_like(off_CK).index_add_(0, index_C, off_CK**2)[index_C]
    return off_CK / (torch.sqrt(square_CK / count_C1) + eps)


def _group_moments(return_CK: Tensor, group_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum [C, K] over each chain's group, its size [C, 1], and the groups numbered from 0 [C]."""
    _, index_C, count_G = torch.unique(group_C, return_inverse=True, return_counts=True)
    sum_CK = torch.zeros_like(return_CK).index_add_(0, index_C, return_CK)[index_C]
    return sum_CK, count_G[index_C][:, None], index_C


def group_advantages(
    algo: str, reward_A: Tensor, turn_A: Tensor, starts_C: Tensor, group_C: Tensor, *, baseline: str = "episode"
) -> tuple[Tensor, Tensor]:
    """Advantages and turn returns [A] by comparison inside groups, without a critic.

    Args:
        algo: "rloo", or "grpo".
        group_C: equal for chains that began alike (same person and seed, or samples of one turn).
        baseline: for grpo; "episode" compares G_1 and gives the result to all tokens, "turn" compares G_k at turn k.
    """
    chain_A = _chain_of(starts_C, len(reward_A))
    return_CK = turn_returns(reward_A, turn_A, starts_C)
    if algo == "rloo":
        advantage_CK = rloo(return_CK, group_C)
    elif baseline == "turn":
        advantage_CK = grpo(return_CK, group_C)
    else:
        advantage_CK = grpo(return_CK[:, :1], group_C).expand_as(return_CK)
    return advantage_CK[chain_A, turn_A].to(reward_A.dtype), return_CK[chain_A, turn_A].to(reward_A.dtype)


def estimate_advantages(
    algo: str,
    rewards_A: Tensor,
    turn_A: Tensor,
    starts_C: Tensor,
    *,
    values_A: Tensor | None,
    bootstrap_C: Tensor | None,
    group_C: Tensor,
    baseline: str,
    **discounts: float,
) -> tuple[Tensor, Tensor]:
    """The one interface of all estimators: (advantages_A, returns_A), before any whitening.

    ppo: `gae` with a critic. reinforce (REINFORCE++, Hu 2025): token returns, i.e. `gae` with V = 0 and λ = 1.
    rloo, grpo: `group_advantages`. ``values_A`` and ``bootstrap_C`` are None without a critic.
    """
    if algo in ("rloo", "grpo"):
        return group_advantages(algo, rewards_A, turn_A, starts_C, group_C, baseline=baseline)
    if algo == "reinforce":
        values_A, bootstrap_C = torch.zeros_like(rewards_A), torch.zeros(len(starts_C))
        discounts = discounts | {"lam_token": 1.0, "lam_turn": 1.0}
    elif algo != "ppo" or values_A is None or bootstrap_C is None:
        raise ValueError(f"algo: expected ppo with values, grpo, rloo or reinforce; got {algo!r}.")
    return chain_gae(rewards_A, values_A, turn_A, starts_C, bootstrap_C, **discounts)


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
