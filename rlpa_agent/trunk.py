"""The layers of a transformers model, and what its last one need not compute.

Every layer but the last feeds the attention of the next at all positions. Behind the last there are only the heads, which read the
positions that tokens were predicted from: in a dialogue a third of all, or half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def layers_of(lm: Any) -> Sequence[nn.Module]:
    """The decoder layers of a model; none where they are not in a list."""
    for module in lm.base_model.children():
        if isinstance(module, nn.ModuleList) and len(module) == lm.config.num_hidden_layers:
            return list(module)
    return []


@contextmanager
def last_layer_at(lm: Any, rows_A: Tensor, pos_A: Tensor, multiple: int = 1) -> Iterator[None]:
    """Within it, what follows attention in the last layer is computed at (row, position) alone; final hidden states elsewhere are junk.

    Of models whose layers are put together as Llama's are, of projections named ``o_proj`` and ``gate_proj``, ``up_proj`` and
    ``down_proj`` in an ``mlp``; others are computed whole. ``multiple``: positions are filled up to, so that shapes recur. Backward
    passes that run the layer again do so without it.
    """
    layers = layers_of(lm)
    rows_A, pos_A = torch.unique(torch.stack((rows_A, pos_A)), dim=1)  # one that is read twice is written once, or its gradient would count twice
    with ExitStack() as undo:
        for part in behind_attention(layers[-1]) if layers else ():
            for hook in _hooks(part, rows_A, pos_A, -len(pos_A) % multiple):
                undo.callback(hook.remove)
        yield


def behind_attention(layer: nn.Module) -> Sequence[nn.Module]:
    """Modules behind attention that look at each position by itself."""
    mlp, out = getattr(layer, "mlp", None), getattr(getattr(layer, "self_attn", None), "o_proj", None)
    dense = all(isinstance(getattr(mlp, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj"))
    return [out, mlp] if isinstance(mlp, nn.Module) and isinstance(out, nn.Module) and dense else []


def _hooks(part: nn.Module, rows_A: Tensor, pos_A: Tensor, fill: int) -> Sequence[Any]:
    shape: list[int] = []

    def read(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        shape[:] = args[0].shape[:2]
        return (functional.pad(args[0][rows_A, pos_A], (0, 0, 0, fill)),)

    def written(_: nn.Module, args: tuple[Tensor], out_AH: Tensor) -> Tensor:
        return out_AH.new_zeros((*shape, out_AH.shape[-1])).index_put((rows_A, pos_A), out_AH[: len(pos_A)])

    return part.register_forward_pre_hook(read), part.register_forward_hook(written)
