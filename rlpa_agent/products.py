"""x Wᵀ + b with a frozen W and few rows of x: what decoding spends its time on."""

from __future__ import annotations

import torch
from torch import Tensor

WIDE = 512
"""Matrices at least so large on both sides are laid out anew; smaller ones stay in the processor's cache and gain nothing."""

ROWS = 32
"""Rows of x for which the new layout is chosen. It serves any number of them."""


class Product:
    """A matrix W [O, I], with a bias [O] or without, laid out for products with few rows.

    In fp32 on a processor the layout is oneDNN's own. With 16 to 64 rows and the matrices of Qwen2.5-0.5B that took from as
    long to 2.6 times less than a plain product, whose kernels are made for many rows. ``shared``: where no layout is better,
    W is multiplied as it lies, in the memory that it has.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, *, shared: bool = False) -> None:
        plain = weight_OI.dtype != torch.float32 or weight_OI.device.type != "cpu" or min(weight_OI.shape) < WIDE
        self.packed = not plain and torch.backends.mkldnn.is_available()
        self.bias_O = bias_O
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI, ROWS)
        else:
            self.weight = weight_OI.t() if shared else weight_OI.t().contiguous()

    def __call__(self, x_TI: Tensor) -> Tensor:
        """[T, I] -> [T, O]."""
        if self.packed:
            result: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, self.weight, self.bias_O, "none", [], "")
            return result
        return x_TI @ self.weight if self.bias_O is None else torch.addmm(self.bias_O, x_TI, self.weight)

    def added_to(self, x_TO: Tensor, y_TI: Tensor) -> Tensor:
        """x + y Wᵀ of a matrix without bias."""
        return x_TO + self(y_TI) if self.packed else torch.addmm(x_TO, y_TI, self.weight)
