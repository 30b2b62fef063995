"""benchmarks/told: what became of every told point adds up with what the evaluation says, and a hint is no name."""

from __future__ import annotations

import json

import pytest

from rlpa_env.agents import make_agent
from rlpa_env.evaluate import Setting, collect


@pytest.fixture(scope="module")
def told(benchmark_script):
    return benchmark_script("told/run.py")


@pytest.fixture(scope="module")
def records():
    agents = {name: make_agent(name) for name in ("attentive", "script", "prior")}
    return collect(agents, Setting(split="vanilla/val", users=8), quiet=True)


def test_told_and_listed_points_are_those_of_the_evaluation(told, records):
    for record in (record for own in records.values() for record in own):
        found, truths = told.counts(record), sum(len(values) if isinstance(values, list) else 1 for values in record["truth"].values())
        hits = found["named", "hit"] + found["hinted", "hit"]
        assert hits == found["line", "hit"] == round(sum(truths * turn["recall"] for turn in record["turns"])) - found["line", "lucky"]
        assert found["told", "named"] + found["told", "hinted"] == round(sum(truths * turn["ceiling"] for turn in record["turns"]))


def test_who_listens_lists_what_was_named_and_who_does_not_is_lucky(told, records):
    attentive, prior = (told.shares([told.counts(record) for record in records[name]]) for name in ("attentive", "prior"))
    assert attentive["named, listed"]["share"] > 0.7 > 0.2 > prior["named, listed"]["share"]
    assert attentive["lines lucky"]["share"] == 0 < prior["lines lucky"]["share"]
    assert 0.1 < attentive["told, only hinted"]["share"] < 0.6
    for own in (attentive, prior):
        assert sum(own[f"lines {kind}"]["share"] for kind in ("hit", "lucky", "wrong", "invented")) == pytest.approx(1)
        assert all(cell["share"] is None or cell["low"] <= cell["share"] <= cell["high"] for cell in own.values())


def test_what_has_been_hinted_at_is_named_once_its_words_are_said(told):
    point = {"Occupation": "baker"}
    turn = {"f1": 0.0, "hits": [], "told": [0], **dict.fromkeys(("naturalness", "relevance", "logic", "engagement", "informativeness"), True)}
    said = ["Up at four to get the loaves in.", "I'm a baker, you know."]
    messages = [message for text in said for message in ({"role": "user", "content": text}, {"role": "assistant", "content": "<profile>\n</profile>\n<response>\nHm.\n</response>"})]
    found = told.counts({"truth": point, "messages": messages, "turns": [turn, turn]})
    assert (found["hinted", "missed"], found["named", "missed"]) == (1, 1)
    assert sum(found["at once", state] for state in ("hit", "missed")) == 1  # its clock begins where it is named
    assert not any(found[when, state] for when in ("kept", "made up for") for state in ("hit", "missed"))


def test_a_named_point_is_listed_at_once_kept_or_made_up_for(told):
    truth = {"Occupation": "baker", "Location": "Oslo", "Gender": "woman"}
    verdicts = {"f1": 0.0, **dict.fromkeys(("naturalness", "relevance", "logic", "engagement", "informativeness"), True)}
    said = ["I'm a baker.", "I live in Oslo.", "And I'm a woman, as it happens.", "So."]
    blocks = ["- Occupation: baker\n", "- Occupation: baker\n- Interests: opera\n", "- Location: Oslo\n- Gender: woman\n", "- Location: Oslo\n"]
    told_by, hits = [[0], [0, 1], [0, 1, 2], [0, 1, 2]], [[[0, 0]], [[0, 0]], [[0, 1], [1, 2]], [[0, 1]]]
    messages = [
        message
        for text, block in zip(said, blocks)
        for message in ({"role": "user", "content": text}, {"role": "assistant", "content": f"<profile>\n{block}</profile>\n<response>\nHm.\n</response>"})
    ]
    found = told.counts({"truth": truth, "messages": messages, "turns": [{**verdicts, "hits": h, "told": t} for h, t in zip(hits, told_by)]})
    listed = {when: (found[when, "hit"], found[when, "missed"]) for when in (*told.WHEN, *told.AT_ONCE)}
    assert listed == {
        "at once": (2, 1),  # baker and woman; Oslo was not
        "kept": (2, 2),  # baker and then Oslo; baker is dropped, then woman
        "made up for": (1, 1),  # Oslo; baker is not
        "at once, up to 1 line": (1, 1),
        "at once, 2 lines or more": (1, 0),
    }


def test_folders_of_evaluations_are_read_and_a_wrong_one_is_named(told, records, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    first = records["attentive"][0]
    begun = 1 + next(i for i, message in enumerate(first["messages"]) if message["role"] == "assistant")
    deaf = {**first, "profile": "deaf", "messages": first["messages"][:begun], "turns": [{**first["turns"][0], "told": []}]}  # nothing was told yet
    failed = {**first, "profile": "failed", "stop_reason": "failure", "error": "no answer"}
    lines = [json.dumps(record) for record in (*records["attentive"], deaf, failed)]
    (tmp_path / "a" / "episodes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told.main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert "attentive" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "told.json").read_text())["figures"]["attentive"]["people"] == 9
    with pytest.raises(SystemExit, match="nowhere: expected a run folder"):
        told.main([str(tmp_path / "nowhere")])
