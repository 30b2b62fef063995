"""Every published row of arXiv 2505.15456 against what its own turns give; errata by name."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"


@pytest.fixture(scope="module")
def paper():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("published"), importlib.import_module("null_band")
    finally:
        sys.path.remove(str(FOLDER))


ERRATA = {  # row -> the figures that its printed turns cannot give
    "vanilla: Qwen2.5-3B DPO": {"avg"},
    **{
        f"extended: {name}": {"n_ir", "n_r2"}
        for name in (
            "GPT-4o-mini Self-Critic", "GPT-4o Self-Critic", "Claude-3.5-Sonnet Self-Critic", "Claude-3.5-Haiku Self-Critic",
            "DeepSeek-V3 Self-Critic", "Qwen2.5-3B Reminder", "Qwen2.5-3B Self-Critic", "Qwen2.5-3B CoT", "Qwen2.5-3B RAG",
            "Qwen2.5-3B SFT", "Qwen2.5-3B DPO", "Qwen2.5-3B RLPA",
        )
    },
}  # fmt: skip


def test_every_row_follows_from_its_turns_but_for_the_errata_and_all_of_those_do_not(paper):
    published, _ = paper
    assert len(published.rows()) == 13 + 13 + 3
    assert {name: set(wrong) for name, wrong in published.errata().items()} == ERRATA


def test_the_tolerance_is_that_of_rounding_and_no_wider(paper):
    published, _ = paper
    for row in published.rows():
        al = np.asarray(row.al)
        for name, (low, high) in published.bounds(al, 0.005).items():
            assert high - low < {"avg": 0.0101, "n_ir": 0.001, "n_r2": 0.0033}[name], row.name
        rng = np.random.default_rng(0)
        for _ in range(50):  # rows that round to the printed one stay within the bounds
            other = al + rng.uniform(-0.005, 0.005, len(al))
            slope, fit = published.improvement(other)
            found = published.bounds(al, 0.005)
            assert found["avg"][0] <= other.mean() <= found["avg"][1]
            assert found["n_ir"][0] <= slope <= found["n_ir"][1]
            assert found["n_r2"][0] <= fit <= found["n_r2"][1]


def test_a_last_digit_that_is_off_by_two_is_noticed(paper):
    published, _ = paper
    row = published.rows("vanilla")[-1]
    from dataclasses import replace

    for name, step in (("avg", 0.02), ("n_ir", 0.002), ("n_r2", 0.002)):
        for sign in (-1, 1):
            off = replace(row, **{name: getattr(row, name) + sign * step})
            assert not published.checks(off)[name].follows


def test_a_row_that_rounding_could_make_flat_is_refused(paper):
    with pytest.raises(ValueError, match="cannot make flat"):
        paper[0].bounds(np.full(10, 8.0), 0.005)


def test_turns_are_shares_of_74_people_in_vanilla_and_of_73_in_extended(paper):
    published, _ = paper
    assert {published.users_of(row) for row in published.rows("vanilla")} <= {37, 74}
    assert {published.users_of(row) for row in published.rows("extended")} == {73}
    ablation = {row.method: published.users_of(row) for row in published.rows("ablation")}
    assert ablation["both rewards"] == 74
    assert ablation["profile reward only"] == 74
    assert ablation["response reward only"] == 740  # no share of 74 people, as ten runs of them would be


def test_the_null_band(paper):
    _, null_band = paper
    found = null_band.band(74, 0.5, "independent", 3000, 1)
    # Without ties R² of white noise over ten turns is Beta(1/2, 4): its 95 % quantile is the critical r² = 0.632².
    assert found.n_r2 == pytest.approx(0.632**2, abs=0.02)
    assert found.n_ir == pytest.approx(0.067, abs=0.003)
    assert found.point == pytest.approx(1.96 * 50 / 74**0.5, abs=1.0)
    assert null_band.band(74, 0.5, "people differ", 3000, 1).n_r2 == pytest.approx(found.n_r2, abs=0.04)
    assert null_band.band(74, 0.5, "persistent", 1000, 1).n_r2 > found.n_r2 + 0.05
    assert null_band.band(74, 1.0) == (0.0, 0.0, 0.0)
