"""benchmarks/turn_credit: what differs between its runs, and how they are compared."""

from __future__ import annotations

import dataclasses

import pytest

FIGURES = ("reward", "grounded_f1", "response", "ceiling")


def played(*levels):
    return [
        {"profile": str(i), "seed": 0, "limit": 1, "stop_reason": "", "turns": [{"valid": True} | dict.fromkeys(FIGURES, level)]}
        for i, level in enumerate(levels)
    ]


def test_nothing_but_gamma_differs(tmp_path, benchmark_script):
    config_of = benchmark_script("turn_credit/run.py").config_of
    base, other = (config_of(tmp_path, gamma, seed=3, iterations=5) for gamma in (0.0, 0.9))
    assert (other.ppo.gamma_turn, other.seed, other.iterations, other.minutes) == (0.9, 3, 5, None)
    assert dataclasses.replace(other, ppo=dataclasses.replace(other.ppo, gamma_turn=0.0)) == base


def test_people_are_paired(benchmark_script):
    compared = benchmark_script("turn_credit/run.py").compared
    found = compared({"gamma 0": played(0.0, 1.0), "gamma 1": played(0.5, 1.5)}, "gamma 0")
    assert list(found) == ["gamma 1"]
    assert all(figure == pytest.approx((0.5, 0.5, 0.5)) for figure in found["gamma 1"].values())
    assert set(found["gamma 1"]) == {"return", "grounded_f1", "response", "told"}
