"""The critic's head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ValueHead(nn.Module):
    """Two-layer perceptron on a hidden state and the share of turns played; starts as the constant 0."""

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.inner = nn.utils.skip_init(nn.Linear, hidden_size + 1, hidden_size)  # draws nothing globally
        self.outer = nn.utils.skip_init(nn.Linear, hidden_size, 1)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.inner.weight, std=hidden_size**-0.5, generator=generator)
        for zero in (self.inner.bias, self.outer.weight, self.outer.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden_AH: Tensor, turn_fraction_A: Tensor) -> Tensor:
        """Value [A] in fp32; ``turn_fraction_A`` is turn/turn limit in [0, 1]."""
        features = torch.cat([hidden_AH.float(), turn_fraction_A.float()[:, None]], dim=-1)
        return self.outer(functional.silu(self.inner(features)))[:, 0]

    @torch.no_grad()
    def rescale(self, old: tuple[float, float], new: tuple[float, float]) -> None:
        """Keep every de-normalised value when the (mean, deviation) that normalise returns change."""
        (old_mean, old_std), (new_mean, new_std) = old, new
        self.outer.weight.mul_(old_std / new_std)
        self.outer.bias.mul_(old_std).add_(old_mean - new_mean).div_(new_std)
