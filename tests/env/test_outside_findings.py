"""Faults that a reader from outside found, each as they ran into it."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import pickle
import sys

import gymnasium as gym
import pytest
from rich.console import Console

from rlpa_env.agents import make_agent
from rlpa_env.cli import main
from rlpa_env.evaluate import evaluate
from rlpa_env.matching import LexicalMatcher, match_points
from rlpa_env.population import shifted
from rlpa_env.profiles import Profile
from rlpa_env.rendering import results_table
from rlpa_env.setting import Setting
from rlpa_env.text import normalise, words
from rlpa_env.types import Point, Verdict

AGENT = """
class Mine:
    def act(self, messages):
        return "<profile>\\n</profile>\\n\\n<response>\\n{reply}\\n</response>"
"""


JUDGE = """
class Mine:
    def judge(self, points, dialogue, reply):
        return {verdict}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The object that a file of somebody's own makes, as it is now."""

    def load(text):
        path = tmp_path / "mine.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("mine", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, "mine", module)
        return module.Mine()

    return load


@pytest.mark.parametrize("part", ["judge", "al_judge"])
def test_a_judge_whose_code_was_edited_is_another_setting(written, part):
    def key(verdict):
        mine = written(JUDGE.format(verdict=verdict))
        return (Setting(al_judge=mine) if part == "al_judge" else Setting(env_kwargs=(("judge", mine),))).key

    assert key("None") == key("None") != key("1 / 0")


def test_who_says_what_it_is_is_not_told_by_its_source(written):
    keys = {Setting(env_kwargs=(("judge", written(JUDGE.format(verdict=v) + "    identity = {'is': 'mine'}\n")),)).key for v in ("None", "1 / 0")}
    assert len(keys) == 1


def test_an_agent_whose_code_was_edited_is_played_again(written, tmp_path):
    def reward(reply):
        rows = evaluate({"mine": written(AGENT.format(reply=reply))}, users=2, references="none", out=tmp_path / "out", quiet=True)
        return rows[0]["response"], len((tmp_path / "out/episodes.jsonl").read_text().splitlines())

    kind, lines = reward("I just baked a fresh loaf of bread. What do you do for work?")
    assert reward("I just baked a fresh loaf of bread. What do you do for work?") == (kind, lines)
    rude, more = reward("You stupid idiot.")
    assert (rude, more) == (0.0, 2 * lines)
    assert kind > 0


@pytest.mark.parametrize(
    ("slots", "told"),
    [
        ({"Marital Status": ["Married"], "Occupation": ["Baker"], "Interests": ["Chess", "Hiking", "Photography", "Gardening"], "Personality Traits": ["Shy", "Curious", "Patient"]}, [0, 1, 2]),
        ({"Location": ["Lisbon"], "Occupation": ["Baker"], "Pets": ["a cat"]}, [0]),
        ({"Languages": ["Esperanto", "Klingon", "Latin"], "Occupation": ["Baker"]}, [0, 1, 2]),
    ],
)  # fmt: skip
def test_people_of_ones_own_change_to_something_else_however_it_is_written(slots, told):
    person = Profile("me", slots)
    before = {normalise(point.value) for point in person.points}
    for seed in range(400):
        new, chosen = shifted(person, told, gym.utils.seeding.np_random(seed)[0])
        assert chosen
        assert len({normalise(point.value) for point in new.points} - before) == len(chosen)


@pytest.mark.parametrize(("one", "other"), [("कला", "कली"), ("ไก่", "ไก")])
def test_words_that_differ_in_a_mark_are_two(one, other):
    assert normalise(one) != normalise(other)
    assert words(f"{one} {other}") == (one, other)
    assert match_points(LexicalMatcher(), [Point("Interests", one)], [Point("Interests", other)]) == []
    assert match_points(LexicalMatcher(), [Point("Interests", one)], [Point("Interests", one)]) == [(0, 0)]
    assert normalise("cafe\u0301") == normalise("café")


@pytest.fixture
def registered():
    gym.register("RLPATerse-v0", "rlpa_env.env:RLPAEnv", kwargs={"style": "terse", "split": "extended/train"})
    yield "rlpa_env:RLPATerse-v0"
    del gym.registry["RLPATerse-v0"]


def test_the_command_line_asks_an_id_with_its_module_what_it_is_registered_with(registered, tmp_path, monkeypatch, capsys):
    made = []
    make = gym.make
    monkeypatch.setattr(gym, "make", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    main(["play", "--env", registered, "--agent", "script", "--seed", "1"])
    assert made[0].unwrapped.spec.kwargs["style"] == "terse"
    assert made[0].unwrapped.spec.kwargs["split"] == "extended/test"
    main(["eval", "--env", registered, "--agent", "script", "--users", "1", "--references", "none", "--out", str(tmp_path)])
    assert "extended/test" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="expected --base-url and --model"):
        main(["eval", "--env", "rlpa_env:RLPA-LLM-v0", "--agent", "script", "--out", str(tmp_path / "b")])


@pytest.mark.parametrize("said", ["I run. I swim. I bike.", "I run. I swim. I bike. I rest."])
@pytest.mark.parametrize("style", ["plain", "terse"])
def test_a_trait_of_many_sentences_is_told(said, style, tmp_path):
    person = {"id": "me", "slots": {"Motto": [said], "Occupation": ["baker"], "Pets": ["a cat"]}}
    (tmp_path / "me.jsonl").write_text(json.dumps(person) + "\n")
    env = gym.make("RLPA-v0", split=str(tmp_path / "me.jsonl"), style=style)
    told = 0
    for seed in range(10):
        env.reset(seed=seed)
        for _ in range(3):
            _, _, terminated, truncated, info = env.step("<profile>\n</profile>\n<response>\nI see, that is good to hear. What is your motto?\n</response>")
            told += said in info["messages"][-1]["content"]
            if terminated or truncated:
                break
    assert told >= 5


def test_names_are_no_markup():
    rows = evaluate({"x [/b]": make_agent("script")}, users=1, references="none", quiet=False)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(results_table(rows, "people[v2]"))
    text = console.export_text()
    assert "x [/b]" in text
    assert "people[v2]" in text


def test_environments_and_verdicts_can_be_copied_and_sent():
    env = gym.make("RLPA-v0")
    env.reset(seed=0)
    env.step("<profile>\n</profile>\n<response>\nHello, how was your day?\n</response>")
    twin = pickle.loads(pickle.dumps(copy.deepcopy(env)))
    action = "<profile>\n- Age: 34\n</profile>\n<response>\nWhat do you do for work?\n</response>"
    assert twin.step(action)[:4] == env.step(action)[:4]
    verdict = Verdict(True, True, True, True, False, scores={"logic": 1.0})
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    assert pickle.loads(pickle.dumps(Verdict(True, True, True, True, True))).scores == {}


def test_a_file_of_people_is_the_same_by_any_of_its_names(tmp_path, monkeypatch):
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps({"id": "me", "slots": {"Occupation": ["baker"], "Pets": ["a cat"]}}) + "\n")
    monkeypatch.chdir(tmp_path)
    assert Setting(split="people.jsonl").key == Setting(split=str(path)).key
    path.write_text(path.read_text().replace("baker", "nurse"))
    assert Setting(split="people.jsonl").key != Setting(split="vanilla/test").key
