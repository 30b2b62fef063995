"""`rlpa-env`: what it prints, what it refuses, and how."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from rlpa_env import ModelError, Point, RLPAEnv, RuleJudge, format_action, parse_action
from rlpa_env.cli import main
from rlpa_env.errors import unknown_choice
from rlpa_env.evaluate import evaluate, results_table


def played(monkeypatch, capsys, typed, *options):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    main(["play", "--seed", "1", *options])
    return capsys.readouterr().out


def test_a_players_guesses_stand_until_they_are_dropped(monkeypatch, capsys):
    sent = []
    step = RLPAEnv.step
    monkeypatch.setattr(RLPAEnv, "step", lambda self, action: sent.append(parse_action(action)) or step(self, action))
    played(monkeypatch, capsys, "- Occupation: baker\nHi there.\n\n- Age: 34\nWhat do you do?\n\nAnd where?\n\n-\n- Age: 35\nOh?\n\n")
    assert [[tuple(point) for point in action.profile] for action in sent] == [
        [("Occupation", "baker")], [("Occupation", "baker"), ("Age", "34")], [("Occupation", "baker"), ("Age", "34")], [("Age", "35")]
    ]  # fmt: skip
    assert [action.reply for action in sent] == ["Hi there.", "What do you do?", "And where?", "Oh?"]


def test_a_player_is_told_how_guesses_are_read_and_why_nothing_was_earned(monkeypatch, capsys):
    out = played(monkeypatch, capsys, "- Occupation: baker\nWhat do you do?\n\n")
    assert "- Occupation: baker" in out.split("User")[0]
    assert "response reward 0 · " in out
    assert "informativeness (" in out


@pytest.mark.parametrize("typed", ["", "Hi there, I just made tea.\n\n", "Hi there, I just made tea."])
def test_the_end_of_the_input_ends_the_dialogue_and_shows_the_truth(monkeypatch, capsys, typed):
    out = played(monkeypatch, capsys, typed)
    assert "truth and guess" in out
    assert "Kyoto" in out  # of the person of this seed
    assert out.count("profile reward") == 1 + bool(typed)  # the last line is of the table
    assert "\x1b" not in out  # no terminal, no codes


def test_a_dialogue_that_a_model_ends_shows_the_truth_before_it_says_so(monkeypatch, capsys):
    def down(*_):
        raise ModelError("no answer")

    monkeypatch.setattr(RuleJudge, "judge", down)
    with pytest.raises(SystemExit, match="rlpa-env: the dialogue ended: no answer"):
        played(monkeypatch, capsys, "Hi there, I just made tea.\n\n")
    assert "truth and guess" in capsys.readouterr().out


def test_watching_an_agent_shows_every_belief_once(capsys):
    main(["play", "--agent", "attentive", "--seed", "3"])
    out = capsys.readouterr().out
    assert "believes: nothing yet" in out
    assert out.count("believes: ") == out.count("Assistant: ") > 5


def test_what_is_said_is_no_markup(monkeypatch, capsys, tmp_path):
    person = {"id": "p", "slots": {"Interests": "[red]chess", "Occupation": "[bold]baker"}}
    (tmp_path / "people.jsonl").write_text(json.dumps(person) + "\n")
    out = ""
    for seed in range(4):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hi, I just made tea. What do you do for fun?\n\n" * 6))
        main(["play", "--seed", str(seed), "--split", str(tmp_path / "people.jsonl")])
        out += capsys.readouterr().out.split("truth and guess")[0]
    assert "[red]chess" in out.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "--agent"], "--agent: expected at least one of oracle, "),
        (["eval", "--agent", "atentive"], "'rag'; got 'atentive'. Did you mean 'attentive'"),
        (["eval", "--al-judge", "llm"], "al-judge llm: expected --base-url and --model of a served model"),
        (["eval", "--env", "RLPA-v1"], "v0"),
        (["eval", "--users", "1", "--seed", "-1", "--out", "OUT/runs"], "got|greater"),
        (["eval", "--users", "1", "--out", "OUT/file/runs"], "file"),
        (["play", "--seed", "-1"], "greater or equal to zero"),
    ],
)
def test_mistakes_are_told_in_a_line(words, said, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=said) as caught:
        main([word.replace("OUT", str(tmp_path)) for word in words])
    assert str(caught.value.code).startswith("rlpa-env: ")


def test_the_test_people_are_those_of_the_environment(tmp_path):
    for env_id, split in (("RLPA-Extended-v0", "extended/test"), ("RLPA-v0", "vanilla/test")):
        main(["eval", "--env", env_id, "--agent", "silent", "--references", "none", "--users", "2", "--out", str(tmp_path / env_id)])
        (row,) = json.loads((tmp_path / env_id / "results.json").read_text())
        assert row["split"] == split


def test_version_and_module(capsys):
    main(["--version"])
    told = capsys.readouterr().out
    assert subprocess.run([sys.executable, "-m", "rlpa_env", "--version"], capture_output=True, text=True, check=True).stdout == told
    assert told.startswith("rlpa-env 0.")


def test_no_hint_is_better_than_a_wild_one():
    assert "Did you mean" not in str(unknown_choice("style", "angry", ["plain", "terse"]))
    assert str(unknown_choice("style", "plane", ["plain", "terse"])).endswith("Did you mean 'plain'?")


class Says:
    def __init__(self, answer):
        self.answer = answer

    def act(self, messages):
        return self.answer


@pytest.mark.parametrize("answer", [None, {"response": "Hi"}, b"Hi"])
def test_an_agent_that_returns_no_text_is_named(answer):
    with pytest.raises(ValueError, match=r"agent 'mine': expected act\(messages\) to return a str.*got"):
        evaluate({"mine": Says(answer)}, users=1, references="none", quiet=True)


def test_what_cannot_act_is_named():
    with pytest.raises(ValueError, match=r"agent 'mine': expected an object with act\(messages\) -> str; got 'attentive'"):
        evaluate({"mine": "attentive"}, users=1, references="none", quiet=True)


def test_a_table_says_that_answers_were_malformed():
    def notes(answer):
        rows = evaluate({"mine": Says(answer)}, users=1, references="none", quiet=True)
        return "".join(map(str, results_table(rows).columns[0].cells))

    assert "100% of answers malformed, which earn 0" in notes("Hello!")
    assert "malformed" not in notes(format_action([Point("Occupation", "baker")], "Hi, I just made tea."))
