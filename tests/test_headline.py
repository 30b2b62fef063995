"""benchmarks/headline, on the tiny start in place of every model: who is compared, what is counted, what may be said."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "headline" / "run.py"


@pytest.fixture
def headline(monkeypatch):
    """The script as a module; the folders that it puts on the path, and the modules in them, go again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("headline_run", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - before:
        if str(RUN.parents[1]) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_it_holds_everybodys_dialogues_and_two_people_decide_nothing(headline, tmp_path, monkeypatch, capsys):
    command = [str(RUN), "--smoke", "--users", "2", "--methods", "base", "cot", "--max-new-tokens", "24", "--runs", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(command[0], run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    figures = json.loads(printed[-1])
    assert list(figures["rows"]) == ["small, trained", "small, start", "small", "large", "large, cot"]
    assert {claim["outcome"] for claim in figures["claims"]} == {"cannot be said"}
    assert len(figures["claims"]) == 8
    assert any("Qwen2.5-3B RLPA 73.38" in line for line in printed)
    kept = sorted(path.parent.name for path in tmp_path.glob("RLPA-v0-*/*/episodes.jsonl"))
    assert len(kept) == 2  # the same weights, asked in two ways
    assert all("-n24" in name for name in kept)
    # Who talks most: all that was sampled for a turn counts, thoughts too, up to the longest answer.
    assert 0 < figures["rows"]["large, cot"]["tokens_per_turn"] <= 24


def test_only_names_some_of_the_contestants(headline, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(RUN), "--smoke", "--runs", str(tmp_path), "--only", "large, beg"])
    with pytest.raises(SystemExit):
        headline.main()
    assert "expected some of small, trained, small, start, small, large" in capsys.readouterr().err


def test_al_of_real_people_needs_their_folder(headline, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(RUN)])
    with pytest.raises(SystemExit):
        headline.main()
    assert "--aloe: expected the folder" in capsys.readouterr().err


TOPICS = {"a": ("bread", "I bake bread", "My oven is warm"), "b": ("boats", "I sail boats", "My sail is torn")}


def record(person, turns, reply, aligned):
    likes, first, later = TOPICS[person]
    said = [{"role": "user", "content": first}]
    for _ in range(turns):
        said += [{"role": "assistant", "content": f"<profile>\n- Interests: {likes}\n</profile>\n<response>\n{reply}\n</response>"}]
        said += [{"role": "user", "content": later}]
    turn = {"al": aligned, "f1": 0.5, "response": 1.0, "reward": 2.0, "tokens": 7, "parse_error": "", "valid": True}
    return {"profile": person, "seed": 0, "limit": 4, "stop_reason": "limit", "left": turns < 4, "truth": {"Interests": [likes]}, "messages": said, "turns": [dict(turn) for _ in range(turns)]}


def test_turns_after_a_person_left_count_and_earn_nothing(headline):
    found = headline.row_of([[record("a", 4, "How warm?", 1.0), record("b", 2, "How warm?", 1.0)]], np.full((1, 2, 4), 0.25))
    assert found["form_aside"].value == 25.0
    assert found["avg"].value == pytest.approx(100 * 6 / 8)
    assert found["return"].value == pytest.approx((8.0 + 4.0) / 2)
    assert found["profile_f1"].value == pytest.approx(0.5 * 6 / 8)
    assert found["tokens_per_turn"] == 7
    assert found["left_early"] == 0.5


def test_form_aside_is_the_verdict_on_the_words_that_were_seen(headline):
    from rlpa_env.agents import make_agent
    from rlpa_env.evaluate import Setting, collect

    class Formless:
        """Says what attentive does, every second time without its form."""

        def act(self, messages):
            answer = make_agent("attentive").act(messages)
            odd = sum(message["role"] == "assistant" for message in messages) % 2
            return answer.split("<response>")[1].split("</response>")[0] if odd else answer

    records = collect({"attentive": None, "formless": Formless()}, Setting(users=6), workers=1, quiet=True)
    whole = headline.form_aside([records["attentive"]])
    assert (whole == headline.study.by_turn([records["attentive"]], "al")).all()
    assert whole.mean() > 0.5
    odd = headline.study.by_turn([records["formless"]], "al")
    assert odd[:, :, 1::2].max() == 0
    assert headline.form_aside([records["formless"]])[:, :, 1::2].mean() > 0.5


def test_the_second_opinion_hears_who_listens(headline, monkeypatch):
    words = ("bread", "oven", "warm", "bake", "boat", "sail", "torn", "interests", "money")

    def encode(texts):
        counts = np.asarray([[0.1 + text.lower().count(word) for word in words] for text in texts])
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    monkeypatch.setattr(headline, "encoder_of", lambda *_: encode)
    said = {"listens": {"a": "A warm oven for bread?", "b": "Is the boat torn too?"}, "sells": dict.fromkeys("ab", "Money money.")}
    records = {name: [[record(person, 4, reply, 0.0) for person, reply in replies.items()]] for name, replies in said.items()}
    heard = headline.second_opinion(records, "any")
    assert heard["listens"].shape == (1, 2, 1)
    assert heard["listens"].mean() > heard["sells"].mean()
    left, failed = record("a", 2, "A warm oven for bread?", 0.0), record("b", 2, "Is the boat torn too?", 0.0) | {"stop_reason": "failure"}
    cut = headline.second_opinion({"cut": [[left, failed]]}, "any")["cut"]
    assert np.isnan(cut).tolist() == [[[False], [True]]]  # whom nobody answered is not known; who left is


def test_the_claims_are_of_the_trained_one_above_each_other(headline):
    al = np.ones((1, 20, 10))
    tables = {"small, trained": al, "small, start": 0 * al, "small": 0 * al, "large": al, "large, cot": 0 * al}
    said = {claim.sentence: claim.outcome for claim in headline.headline_claims(tables)}
    assert said == {
        "AVG of small, trained above small, start": "held",
        "AVG of small, trained above small": "held",
        "AVG of small, trained above large": "did not hold",
        "AVG of small, trained above large, cot": "held",
    }


def test_a_second_opinion_has_claims_of_its_own(headline, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(headline, "encoder_of", lambda *_: lambda texts: np.eye(8)[[len(text) % 8 for text in texts]])
    command = [str(RUN), "--smoke", "--users", "2", "--methods", "base", "--max-new-tokens", "8", "--runs", str(tmp_path), "--embedding", "any"]
    monkeypatch.setattr(sys, "argv", command)
    headline.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(claim["sentence"].startswith("second opinion of small, trained above ") for claim in figures["claims"]) == 3
    assert all("second_opinion" in row for row in figures["rows"].values())
