"""AL and its normalised improvement against the figures published in arXiv 2505.15456."""

from __future__ import annotations

import pytest

from rlpa_env.metrics import alignment, improvement

PUBLISHED = {  # table 2: AL(1) … AL(10), mean, N-IR, N-R²
    "GPT-4o-mini, self-critic": ([8.11, 40.54, 82.43, 90.54, 89.19, 91.89, 91.89, 86.49, 85.14, 91.89], 75.81, 0.079, 0.500),
    "Claude 3.5 Sonnet, self-critic": ([0.0, 27.03, 41.89, 67.57, 86.49, 89.19, 95.95, 95.95, 94.59, 93.24], 69.19, 0.105, 0.792),
    "Qwen2.5-3B, base": ([0.0, 18.92, 10.81, 9.46, 9.46, 1.35, 9.46, 9.46, 6.76, 4.05], 7.97, -0.020, 0.047),
    "Qwen2.5-3B, SFT": ([2.7, 24.32, 41.89, 40.54, 59.46, 56.76, 54.05, 54.05, 54.05, 55.41], 44.32, 0.083, 0.628),
    "Qwen2.5-3B, RLPA": ([62.16, 68.92, 70.27, 74.32, 72.97, 74.32, 75.68, 78.38, 77.03, 79.73], 73.38, 0.090, 0.855),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows(name):
    al, mean, n_ir, n_r2 = PUBLISHED[name]
    assert sum(al) / len(al) == pytest.approx(mean, abs=0.006)
    assert improvement(al) == pytest.approx((n_ir, n_r2), abs=0.0021)


def test_al_counts_users_and_a_flat_row_has_no_slope():
    assert alignment([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 1, 1]]) == [50.0, 75.0, 50.0]
    assert improvement([40.0] * 10) == (0.0, 0.0)
    assert improvement([30.0, 20.0, 10.0]) == (pytest.approx(-0.5), pytest.approx(1.0))
    with pytest.raises(ValueError, match="two or more turns"):
        improvement([1.0])
