"""The worked example of docs/training.md is what the code computes, and its list of signs is the health line's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

from rlpa_agent.advantages import gae, token_rewards
from rlpa_agent.cli import parse_preset
from rlpa_agent.config import PRESETS
from rlpa_agent.learner import CRITIC_TOKENS
from rlpa_agent.progress import health

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
COMMAND = re.search(r"^rlpa-agent (train .*?[^\\])$", PAGE, re.MULTILINE | re.DOTALL).group(1).replace("\\\n", " ").split()
CONFIG = parse_preset(COMMAND[0], COMMAND[1:]).config
PPO = CONFIG.ppo
ROUNDING = 0.0025  # figures of the page have three digits


def table(first: str) -> list[dict[str, str]]:
    """Rows of the table whose header begins with ``first``, by column."""
    lines = PAGE[PAGE.index(f"| {first} |") :].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[: lines.index("")]]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def column(rows, name):
    return torch.tensor([float(row[name].replace("−", "-")) for row in rows], dtype=torch.float64)


def number(pattern: str) -> tuple[float, ...]:
    """The numbers that ``pattern`` finds in the page, in one place of it."""
    return tuple(float(text.replace("−", "-")) for text in re.search(pattern, PAGE).groups())


def estimated(rows, lam_token, lam_turn):
    """(advantages, returns) of the lines of the table of turn 2."""
    segment = torch.tensor([["block", "reply"].index(row["paid"]) for row in rows])
    assert segment.diff().sum() == 1
    rho = token_rewards(column(rows, "reward"), column(rows, "KL"), PPO.beta)
    discounts = {"gamma_token": PPO.gamma_token, "gamma_turn": PPO.gamma_turn}
    return gae(rho, column(rows, "V"), segment, **discounts, lam_token=lam_token, lam_turn=lam_turn)


def worst(made, rows, name):
    return float((made - column(rows, name)).abs().max())


def test_the_advantages_of_the_page_are_those_of_gae():
    rows = table("turn | paid")
    assert len(rows) == number(r"\| turn 2 \|.*\| (\d+) \|")[0] == 47
    assert worst(estimated(rows, PPO.lam_token, PPO.lam_turn)[0], rows, "A") < ROUNDING
    assert worst(estimated(rows, 0.0, 0.0)[0], rows, "δ") < ROUNDING
    # The numbers tell these settings from others: the block's trace is cut, and is not cut altogether.
    for wrong in (0.0, 1.0):
        assert worst(estimated(rows, PPO.lam_token, wrong)[0], rows, "A") > 0.1


def test_the_returns_of_the_page_are_what_the_critic_learns():
    rows = table("turn | paid")
    assert worst(estimated(rows, PPO.lam_critic, PPO.lam_critic)[1], rows, "return") < ROUNDING
    assert worst(estimated(rows, PPO.lam_token, PPO.lam_turn)[1], rows, "return") > 0.1  # A + V is something else
    a, v, both, target, cut = number(r"A \+ V is ([\d.]+) \+ ([\d.]+) = ([\d.]+), its\s+return ([\d.]+), and the ([\d.]+) between")
    assert [a, v, target] == [float(rows[0][name]) for name in ("A", "V", "return")]
    reply = next(row for row in rows if row["paid"] == "reply")
    assert a + v == pytest.approx(both)
    assert both - target == pytest.approx(cut)
    assert -(1 - PPO.lam_turn) * float(reply["A"]) == pytest.approx(cut)
    first, aim = number(r"first token's return of ([\d.]+) is\s+a target of ([\d.]+\d)")
    mean, deviation = number(r"after this rollout they were ([\d.]+) and ([\d.]+) ")
    assert (first - mean) / deviation == pytest.approx(aim, abs=ROUNDING)


def test_the_lines_between_the_levels_follow_from_each_other():
    rows, rounding = table("where | λ"), ROUNDING / 100  # five digits
    assert {row["λ"] for row in rows} == {str(PPO.lam_turn), "1"}
    assert PPO.lam_token == 1.0
    delta = column(rows, "reward") - PPO.beta * column(rows, "KL") + column(rows, "next V") - column(rows, "V")
    assert worst(delta, rows, "δ") < rounding
    assert worst(delta + column(rows, "λ") * column(rows, "next A"), rows, "A") < rounding
    fine = float(PPO.beta * column(rows, "KL").max())
    assert fine > 50 * rounding  # one line would be wrong without its KL
    assert number(r"KL = ([\d.]+), so ρ = (−[\d.]+)\.")[1] == pytest.approx(-fine, abs=rounding)
    own = {row["token"]: row for row in table("turn | paid") if row["reward"] != "0.000"}
    assert [own["`>`"][name] for name in ("V", "δ", "A")] == [f"{float(rows[-1][name]):.3f}" for name in ("V", "δ", "A")]


def test_whitened_advantages_follow_from_the_mean_and_deviation_named():
    mean, deviation = number(r"has mean (−?[\d.]+) and deviation ([\d.]+);")
    rows = table("turn | paid")
    assert worst((column(rows, "A") - mean) / deviation, rows, "used") < ROUNDING


def test_the_ratios_are_those_of_the_probabilities_and_go_where_the_advantages_point():
    rows = table("token | used")
    moved = column(rows, "after") - column(rows, "logp before")
    assert worst(moved.exp(), rows, "w") < ROUNDING
    assert bool(((moved.exp() < 1 - PPO.clip_low) | (moved.exp() > 1 + PPO.clip_high)).all())
    assert torch.equal(moved.sign(), column(rows, "used").sign())
    chain, others = number(r"The (\d+) sampled tokens, in this order")[0], number(r"The other (\d+) tokens stayed")[0]
    assert len(rows) + others == chain
    turn_2 = {row["token"]: row["used"] for row in table("turn | paid") if row["KL"] not in ("0.000", "-0.000")}
    assert [turn_2[name] for name in ("` in`", "` What`")] == [row["used"].replace("−", "-") for row in rows[-2:]]


def test_the_settings_named_are_those_of_the_command():
    weight = CONFIG.rollout.profile_weight
    for said in (
        f"λ = {PPO.lam_token:g} inside a segment and {PPO.lam_turn:g} from one segment to the next",
        f"the same sum made anew with λ = {PPO.lam_critic:g} everywhere (`lam_critic`)",
        f"(`--rollout.profile-weight {weight:g}`): 0.714",
        f"and β = {PPO.beta:g};",
        f"clip(w, {1 - PPO.clip_low:g}, {1 + PPO.clip_high:g})",
        f"`target_kl` = {PPO.target_kl:g} before every step",
        f"in at most {PPO.minibatches} minibatches",
        f"then {PPO.critic_steps} times more on {CRITIC_TOKENS:,} tokens at most",
        f"the run where that exceeds {PPO.max_kl:g}.",
        f"a fourteenth of its {CONFIG.optim.policy_lr:g}",
        f"why the preset holds {PRESETS['tiny'].rollout.dialogues}.",
    ):
        assert said in " ".join(PAGE.split()), said
    assert weight * 0.143 == pytest.approx(0.714, abs=ROUNDING)
    assert (PPO.epochs, PPO.critic_warmup, CONFIG.optim.warmup_iterations) == (1, 1, 2)
    assert (PPO.profile_paid, PPO.horizon, PPO.kl_in, CONFIG.optim.schedule) == ("block", "terminal", "reward", "constant")


def test_every_sign_of_the_health_line_is_explained():
    named = set(re.findall(r'(?:at|figures\.get)\("(\w+)"', inspect.getsource(health)))
    assert len(named) >= 9
    assert {row["figure"].strip("`") for row in table("figure")} == named
