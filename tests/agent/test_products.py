"""x Wᵀ + b comes out the same in every layout."""

from __future__ import annotations

import pytest
import torch

from rlpa_agent.products import WIDE, Product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(WIDE, WIDE), (3 * WIDE, WIDE), (WIDE, WIDE - 8), (24, 40)])
def test_a_product_is_that_of_its_matrix(sizes, dtype):
    drawn = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*size, generator=drawn).to(dtype) for size in (sizes, sizes[:1]))
    for rows in (1, 5, 32, 77):
        x, y = (torch.randn(rows, size, generator=drawn).to(dtype) for size in (sizes[1], sizes[0]))
        expected = torch.einsum("ti,oi->to", x.double(), weight.double())
        close = {"rtol": 0, "atol": 1e-3 if dtype == torch.float32 else 1.0}
        torch.testing.assert_close(Product(weight)(x).double(), expected, **close)
        torch.testing.assert_close(Product(weight, shared=True)(x).double(), expected, **close)
        torch.testing.assert_close(Product(weight, bias)(x).double(), expected + bias.double(), **close)
        torch.testing.assert_close(Product(weight).added_to(y, x).double(), expected + y.double(), **close)


def test_only_wide_matrices_in_fp32_are_laid_out_anew():
    """The rest is faster as it is, or would lose its memory to a copy."""
    wide = torch.zeros(WIDE, WIDE)
    assert Product(wide).packed == torch.backends.mkldnn.is_available()
    for other in (wide.bfloat16(), wide[:8], wide[:, :8]):
        assert not Product(other).packed
        assert Product(other, shared=True).weight.data_ptr() == other.data_ptr()
