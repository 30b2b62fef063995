"""benchmarks/told/one_more.py: which turns are asked about, what the next line is, and from when on it pays."""

from __future__ import annotations

import dataclasses
import doctest
import json

import pytest

from rlpa_agent.config import PRESETS, shipped_start
from rlpa_agent.policy import Policy
from rlpa_env import LexicalMatcher
from rlpa_env.agents import make_agent
from rlpa_env.evaluate import Setting, collect
from rlpa_env.rewards import f1


@pytest.fixture(scope="module")
def told(benchmark_script):
    return benchmark_script("told/one_more.py")


@pytest.fixture(scope="module")
def records():
    return collect({"script": make_agent("script")}, Setting(split="vanilla/val", users=6), quiet=True)["script"]


def test_its_examples_hold(told):
    assert doctest.testmod(told) == doctest.TestResults(failed=0, attempted=3)


def test_an_end_lacks_what_was_named_and_its_history_ends_with_the_user(told, records):
    found = [end for record in records for end in told.ends(record)]
    assert len(found) > 10
    for end in found:
        assert end.missing
        assert end.history[-1]["role"] == "user"
        said = " ".join(message["content"] for message in end.history if message["role"] == "user").lower()
        assert all(any(word in said for word in point.value.lower().split()) for point in end.missing)
        assert not set(end.missing) & set(end.listed)
        assert end.block.startswith("<profile>")
        assert "</profile>" not in end.block
        for point in end.missing:
            assert told.kind_of(f"- {point.slot}: {point.value}", end) == told.RIGHT
        for point in end.listed:
            assert told.kind_of(f"- {point.slot}: {point.value}", end) == told.SAID


@pytest.mark.parametrize(("hits", "guesses", "truths"), [(0, 0, 12), (2, 3, 15), (4, 4, 9), (1, 8, 10)])
def test_at_the_bound_a_line_earns_nothing(told, hits, guesses, truths):
    preset = PRESETS["tiny"]
    bound = told.pays_from(hits, guesses, truths)
    assert 0 < bound < 1
    gained = bound * f1(hits + 1, guesses + 1, truths) + (1 - bound) * f1(hits, guesses + 1, truths) - f1(hits, guesses, truths)
    assert preset.rollout.profile_weight * gained == pytest.approx(preset.ppo.line_cost)


def test_lines_do_not_depend_on_what_is_decoded_beside_them(told, records):
    policy = Policy.from_pretrained(shipped_start(), reference=False)
    wanted = told.spread((end for record in records for end in told.ends(record)), 5)
    together = told.one_more(policy, wanted)
    for end, (line, chance) in zip(wanted, together, strict=True):
        ((alone, own),) = told.one_more(policy, [end])
        assert line == alone
        assert chance == pytest.approx(own, abs=1e-4)
        assert line.startswith("- ")
        assert line.endswith("\n")
    assert len(told.spread(wanted * 9, 7)) == 7


def test_shares_are_counted_by_hand(told, records):
    end = next(end for record in records for end in told.ends(record) if end.listed)
    other = dataclasses.replace(end, person="other")
    lines = [f"- {p.slot}: {p.value}" for p in (end.missing[0], end.listed[0])] + ["- Pets: a heron"]
    figures = told.figures_of([end, end, other], [(line, 0.5) for line in lines])
    assert [figures[kind]["share"] for kind in (told.RIGHT, told.SAID, told.WRONG)] == pytest.approx([1 / 3] * 3)
    assert (figures[told.WRONG]["low"], figures[told.WRONG]["high"]) == (0, 1)
    assert (figures["ends"], figures["people"], figures["probability of a line"]) == (3, 2, 0.5)
    assert not LexicalMatcher().scores([end.missing[0]], [end.listed[0]]).any()


def test_the_command_names_the_agents_that_are_there(told, records, tmp_path, capsys):
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    with pytest.raises(SystemExit):
        told.main([str(tmp_path), "start=shipped"])
    assert "script" in capsys.readouterr().err
    told.main([str(tmp_path), "script=shipped", "--ends", "4", "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "one_more.json").read_text())["figures"]["script"]["ends"] == 4
