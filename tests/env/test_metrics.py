"""AL and its normalised improvement by hand; test_paper_figures holds them against the published rows."""

from __future__ import annotations

import pytest

from rlpa_env.metrics import alignment, improvement


def test_al_counts_users_and_a_flat_row_has_no_slope():
    assert alignment([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 1, 1]]) == [50.0, 75.0, 50.0]
    assert improvement([40.0] * 10) == (0.0, 0.0)
    assert improvement([100.0 / 3 * (1 + 4e-16 * k) for k in range(10)]) == (0.0, 0.0)  # means of the same number, rounded
    assert improvement([0.0] * 9 + [1e-6])[0] > 0.0
    assert improvement([30.0, 20.0, 10.0]) == (pytest.approx(-0.5), pytest.approx(1.0))
    with pytest.raises(ValueError, match="two or more turns"):
        improvement([1.0])
