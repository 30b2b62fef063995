"""The worked example of docs/training.md is what the code computes, and its list of signs is the health line's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

from rlpa_agent.advantages import gae, token_rewards
from rlpa_agent.config import PRESETS
from rlpa_agent.progress import health

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
PPO = PRESETS["tiny"].ppo
ROUNDING = 0.0025  # figures of the page have three digits


def table(first: str) -> list[dict[str, str]]:
    """Rows of the table whose header begins with ``first``, by column."""
    lines = PAGE[PAGE.index(f"| {first} |") :].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[: lines.index("")]]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def column(rows, name):
    return torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)


def test_the_advantages_of_the_page_are_those_of_gae():
    rows = table("turn | paid")
    assert len(rows) == 36
    segment = torch.tensor([["block", "reply"].index(row["paid"]) for row in rows])
    assert segment.diff().sum() == 1
    rho = token_rewards(column(rows, "reward"), column(rows, "KL"), PPO.beta)
    discounts = {"gamma_token": PPO.gamma_token, "gamma_turn": PPO.gamma_turn}
    made, _ = gae(rho, column(rows, "V"), segment, **discounts, lam_token=PPO.lam_token, lam_turn=PPO.lam_turn)
    assert float((made - column(rows, "A")).abs().max()) < ROUNDING
    steps, _ = gae(rho, column(rows, "V"), segment, **discounts, lam_token=0.0, lam_turn=0.0)
    assert float((steps - column(rows, "δ")).abs().max()) < ROUNDING
    # The numbers tell these settings from others: the block's trace is cut, and is not cut altogether.
    for wrong in (0.0, 1.0):
        other, _ = gae(rho, column(rows, "V"), segment, **discounts, lam_token=PPO.lam_token, lam_turn=wrong)
        assert float((other - column(rows, "A")).abs().max()) > 0.1


def test_the_lines_between_the_levels_follow_from_each_other():
    rows = table("where | λ")
    assert {row["λ"] for row in rows} == {str(PPO.lam_turn), "1"}
    assert PPO.lam_token == 1.0
    delta = column(rows, "reward") - PPO.beta * column(rows, "KL") + column(rows, "next V") - column(rows, "V")
    assert float((delta - column(rows, "δ")).abs().max()) < ROUNDING
    advantage = delta + column(rows, "λ") * column(rows, "next A")
    assert float((advantage - column(rows, "A")).abs().max()) < ROUNDING
    assert float((PPO.beta * column(rows, "KL")).max()) > 50 * ROUNDING  # one line would be wrong without its KL
    own = {row["token"]: row for row in table("turn | paid") if row["reward"] != "0.000"}
    assert [own["`>`"][name] for name in ("V", "δ", "A")] == [rows[-1][name] for name in ("V", "δ", "A")]


def test_whitened_advantages_follow_from_the_mean_and_deviation_named():
    mean, deviation = (float(text.replace("−", "-")) for text in re.search(r"has mean (−?[\d.]+) and deviation ([\d.]+);", PAGE).groups())
    rows = table("turn | paid")
    assert float(((column(rows, "A") - mean) / deviation - column(rows, "used")).abs().max()) < ROUNDING


def test_the_settings_named_are_the_presets():
    for name, value in (("lam_token", 1), ("lam_turn", 0.7), ("beta", 0.01), ("target_kl", 0.03), ("critic_steps", 40), ("max_kl", 40)):
        assert getattr(PPO, name) == pytest.approx(value)
    assert (PPO.epochs, PPO.minibatches, PPO.profile_paid, PPO.horizon, PRESETS["tiny"].rollout.profile_weight) == (2, 4, "block", "terminal", 3)


def test_every_sign_of_the_health_line_is_explained():
    named = set(re.findall(r'(?:at|figures\.get)\("(\w+)"', inspect.getsource(health)))
    assert len(named) >= 9
    assert {row["figure"].strip("`") for row in table("figure")} == named
