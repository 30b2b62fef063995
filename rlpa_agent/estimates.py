"""What a learner says of a rollout: advantages with what they were made of, and what the update did.

Axes as in `batch`: A action tokens of all chains, C chains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Estimates:
    """What one rollout says before any update. Arrays [A] in the order of the batch."""

    logp_old_A: Tensor
    logp_ref_A: Tensor
    values_A: Tensor | None  # de-normalised; None without a critic
    raw_A: Tensor  # advantages as the estimator gives them
    advantages_A: Tensor  # as the loss takes them: whitened where the estimator's own scale is that of the rewards
    returns_A: Tensor
    bootstrap_C: Tensor | None  # value of the state behind each chain; None without a critic
    weights_A: Tensor | None = None  # truncated importance weights of rollouts from elsewhere; None: all 1
    hidden_AH: Tensor | None = None  # states that the values were read from, where the critic's head learns on its own


@dataclass
class UpdateStats:
    """Sums over an iteration's optimizer steps."""

    steps: int = 0
    skipped: int = 0  # steps with a non-finite loss or gradient
    stopped_by_kl: bool = False
    policy_loss: float = 0.0
    value_loss: float = 0.0
    approx_kl: float = 0.0  # of the last minibatch
    clip_fraction: float = 0.0
    entropy: float = 0.0
    grad_norm: float = 0.0
    first_ratio_error: float = 0.0  # largest |w − 1| in the first minibatch of the first epoch, of all processes
    head_positions: int = 0  # where the LM head ran, as the policy counts them; of this process
    policy_positions: int = 0  # action positions of the steps that may move the policy; of this process
    action_tokens: int = 0
    padded_tokens: int = 0
    real_tokens: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def head_ratio(self) -> float:
        """LM head positions over action tokens of steps that may move the policy: 1, or 0 where there was no such step."""
        return self.head_positions / max(1, self.policy_positions)
