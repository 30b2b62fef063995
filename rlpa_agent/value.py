"""The critic's head."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

PLACES = 20
"""Intervals of the table over a dialogue."""
TABLE_RATE = 20.0
"""How much faster than the weights the table learns."""


FILE = "value_head.weights"
"""Beside a saved model. Safetensors by another name: vLLM takes every *.safetensors of a folder for a part of the model."""
OLD_FILE = "value_head.safetensors"
"""Its name in folders of earlier versions."""


def head_file(folder: Path) -> Path | None:
    """Where the head lies in a policy folder; None if it holds none."""
    return next((folder / name for name in (FILE, OLD_FILE) if (folder / name).is_file()), None)


class ValueHead(nn.Module):
    """A table over the share of turns played, and a two-layer perceptron on the hidden state; starts as the constant 0.

    How much is still to come depends first on how many turns are left. As one input among hundreds that is learned
    late, and meanwhile the perceptron explains it with whatever its few dialogues had in common: on new dialogues it
    then predicts worse than the mean of each turn. So the table is apart and learns fast.
    """

    def __init__(self, hidden_size: int, *, seed: int = 0) -> None:
        super().__init__()
        self.units = (0.0, 1.0)  # mean and deviation of the returns that the outputs count from and in
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
        self.units = new

    def save(self, folder: Path) -> None:
        """Write weights and units into a policy folder."""
        from safetensors.torch import save_file

        weights = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        # One entry only: safetensors writes several in an order that changes from process to process.
        save_file(weights, folder / FILE, metadata={"units": json.dumps(self.units)})
        (folder / OLD_FILE).unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Read what `save` wrote, or a file of an earlier version, which does not tell its units."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            self.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 -- no mapping
            mean, std = json.loads((file.metadata() or {}).get("units", "[0.0, 1.0]"))
        self.units = (mean, std)
