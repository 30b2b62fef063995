"""The critic's head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

PLACES = 20
"""Intervals of the table over a dialogue."""
TABLE_RATE = 20.0
"""How much faster than the weights the table learns."""


class ValueHead(nn.Module):
    """A table over the share of turns played, and a two-layer perceptron on the hidden state; starts as the constant 0.

    How much is still to come depends first on how many turns are left. As one input among hundreds that is learned
    late, and meanwhile the perceptron explains it with whatever its few dialogues had in common: on new dialogues it
    then predicts worse than the mean of each turn. So the table is apart and learns fast.
    """

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(PLACES + 1))
        self.inner = nn.utils.skip_init(nn.Linear, hidden_size, hidden_size)  # draws nothing globally
        self.outer = nn.utils.skip_init(nn.Linear, hidden_size, 1)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.inner.weight, std=hidden_size**-0.5, generator=generator)
        for zero in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden_AH: Tensor, turn_fraction_A: Tensor) -> Tensor:
        """Value [A] in fp32; ``turn_fraction_A`` is turn/turn limit in [0, 1]."""
        state_AH = functional.layer_norm(hidden_AH.float(), hidden_AH.shape[-1:])
        place_A = turn_fraction_A.float() * PLACES
        below_A = place_A.floor().clamp(0, PLACES - 1)
        share_A, index_A = place_A - below_A, below_A.long()
        known_A = self.table[index_A] * (1 - share_A) + self.table[index_A + 1] * share_A
        return TABLE_RATE * known_A + self.outer(functional.silu(self.inner(state_AH)))[:, 0]

    @torch.no_grad()
    def rescale(self, old: tuple[float, float], new: tuple[float, float]) -> None:
        """Keep every de-normalised value when the (mean, deviation) that normalise returns change."""
        (old_mean, old_std), (new_mean, new_std) = old, new
        for weight in (self.table, self.outer.weight):
            weight.mul_(old_std / new_std)
        self.outer.bias.mul_(old_std).add_(old_mean - new_mean).div_(new_std)
