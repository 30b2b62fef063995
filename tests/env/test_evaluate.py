"""Agents x users x seeds, resumed after an interruption, and the reference agents in order."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from rlpa_env import ConfigError, Point, format_action
from rlpa_env.agents import AGENTS, TRICKS, constant_profile, make_agent
from rlpa_env.evaluate import Setting, collect, evaluate, results_table, ties
from rlpa_env.population import load_split
from rlpa_env.results import paired_difference, per_turn

USERS = 24


@pytest.fixture(scope="module")
def records():
    return collect(dict.fromkeys(AGENTS), Setting(users=USERS), quiet=True)


def mean(records, key):
    return float(per_turn(records, key).mean())


@pytest.mark.parametrize("name", ["script", "prior", *TRICKS])
def test_every_trick_is_below_attentive_with_its_interval_clear_of_0(records, name):
    _, low, _ = paired_difference(records["attentive"], records[name])
    assert low > 0


def test_oracle_is_above_attentive(records):
    assert paired_difference(records["oracle"], records["attentive"])[1] > 0


def test_copying_the_users_sentences_does_not_pay(records):
    assert mean(records["copyist"], "f1") <= 0.7 * mean(records["attentive"], "f1")


def test_the_best_constant_profile_is_nearly_worthless_on_test():
    constant = set(constant_profile("vanilla/train"))
    people = load_split("vanilla/test")
    f1 = [2 * len(constant & set(p.points)) / (len(constant) + len(p.points)) for p in people]
    assert sum(f1) / len(f1) <= 0.12


def test_revealed_share_is_calibrated(records):
    share = {name: sum(r["turns"][-1]["revealed"] for r in records[name]) / USERS for name in records}
    assert share["prior"] <= 0.15
    assert share["script"] <= 0.45
    assert share["oracle"] >= 0.75


def test_resume_plays_only_what_is_missing(tmp_path):
    plays = []

    class Counting:
        def act(self, messages):
            plays.append(len(messages))
            return format_action([Point("Gender", "woman")], "I made soup. What do you do for a living?")

    evaluate({"mine": Counting()}, users=3, out=tmp_path, quiet=True, workers=1)
    first = len(plays)
    whole = (tmp_path / "results.json").read_text()
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    kept = [line for line in lines if not (json.loads(line)["agent"] == "mine" and json.loads(line)["seed"] == 2)]
    (tmp_path / "episodes.jsonl").write_text("\n".join(kept) + "\n")
    evaluate({"mine": Counting()}, users=3, out=tmp_path, quiet=True, workers=1)
    assert 0 < len(plays) - first < first
    assert (tmp_path / "results.json").read_text() == whole


def test_results_name_their_task_and_always_hold_floor_and_scale(tmp_path):
    rows = evaluate(["script"], users=3, seeds=(0, 1), out=tmp_path, quiet=True)
    assert [row["agent"] for row in rows] == ["script", "prior", "oracle"]
    assert rows[1]["normalised"] == 0.0
    assert rows[2]["normalised"] == 1.0
    assert rows[0]["users"] == 3
    assert rows[0]["seed"] == [0, 1]
    assert len(rows[0]["al"]) == 10
    assert json.loads((tmp_path / "results.json").read_text())[0]["agent"] == "script"


def test_a_batching_agent_gets_many_dialogues_and_the_same_scores():
    class One:
        def act(self, messages):
            return make_agent("script").act(messages)

    class Many(One):
        largest = 0

        def act_batch(self, dialogues):
            self.largest = max(self.largest, len(dialogues))
            return [self.act(messages) for messages in dialogues]

    many = Many()
    rows = evaluate({"one": One(), "many": many}, users=5, quiet=True, workers=1)
    assert many.largest == 5
    assert rows[0]["return"] == rows[1]["return"]


def test_al_uses_the_hidden_profile_and_malformed_turns_score_0():
    class Mute:
        def act(self, messages):
            return "no tags at all"

    rows = evaluate({"mute": Mute()}, users=2, quiet=True, workers=1)
    assert rows[0]["avg"] == 0.0
    assert rows[0]["malformed"] == 1.0


def test_more_users_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"expected 1\.\.74"):
        evaluate(["script"], users=75, quiet=True)


def test_the_same_agent_twice_is_a_tie():
    records = collect({"script": None, "again": make_agent("script")}, Setting(users=4), quiet=True, workers=1)
    assert ties(records) in ([("script", "again")], [("again", "script")])
    rows = evaluate({"script": None, "again": make_agent("script")}, users=4, quiet=True, workers=1)
    assert rows[0]["tied_with"] == ["again"]
    text = Console(width=200, file=io.StringIO(), record=True)
    text.print(results_table(rows))
    assert "tied with again" in text.export_text()
