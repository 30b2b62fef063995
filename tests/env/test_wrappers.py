"""Recording survives a kill; the last message alone can be the observation."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from rlpa_env import ModelError, Point, RLPAError, RuleJudge, ScriptedUser, fork, format_action, restore
from rlpa_env.agents import Composed
from rlpa_env.runs import read_runs
from rlpa_env.wrappers import LastMessage, RecordEpisodes, described, read_episodes, source

ACTION = format_action([Point("Occupation", "baker")], "I had a slow morning. What do you do for a living?")


def play(env, seed, action=ACTION):
    env.reset(seed=seed)
    turns, over = 0, False
    while not over:
        _, _, terminated, truncated, _ = env.step(action)
        turns += 1
        over = terminated or truncated
    return turns


def test_last_message_shows_the_newest_user_message_only():
    env = LastMessage(gym.make("RLPA-v0"))
    observation, _ = env.reset(seed=0)
    assert observation == "Hello"
    observation, *_, info = env.step(ACTION)
    assert observation == info["messages"][-1]["content"]
    assert observation in env.observation_space
    assert len(info["messages"]) == 4


class Failing:
    """A judge that is down."""

    def judge(self, points, dialogue, reply):
        raise ModelError("down")


def test_last_message_is_the_users_after_a_failure_too():
    env = LastMessage(gym.make("RLPA-v0", judge=Failing()))
    env.reset(seed=0)
    observation, _, _, truncated, _ = env.step(ACTION)
    assert truncated
    assert observation == "Hello"


def test_one_line_an_episode_with_everything_in_it(tmp_path):
    env = RecordEpisodes(gym.make("RLPA-v0"), tmp_path / "deep" / "episodes.jsonl")
    turns = [play(env, seed) for seed in (1, 2, 3)]
    episodes = read_episodes(tmp_path / "deep" / "episodes.jsonl")
    assert [episode["seed"] for episode in episodes] == [1, 2, 3]
    assert [len(episode["turns"]) for episode in episodes] == turns
    assert all(episode["finished"] for episode in episodes)
    assert episodes[0]["messages"][2]["content"] == ACTION
    assert episodes[0]["profile"]["slots"]
    assert {"reward", "profile/f1", "user/patience"} <= set(episodes[0]["turns"][0])


def test_a_line_names_the_models_and_the_report_keeps_their_tasks_apart(tmp_path):
    def recorded(**kwargs):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        play(RecordEpisodes(gym.make("RLPA-v0", **kwargs), path), 1, "")  # nothing to judge
        return path, read_episodes(path)[0]

    llm = {"base_url": "http://me:secret@127.0.0.1:9/v1", "model": "m", "api_key_env": "MY_KEY"}
    served = [recorded(judge="llm", llm=llm | other) for other in ({}, {"model": "n"}, {"base_url": "http://b/v1"})]
    made = [*served, recorded(judge=RuleJudge())]
    assert made[0][1]["kwargs"]["llm"] == {"model": "m", "temperature": 0.7, "max_tokens": 512, "language": "en"}
    assert made[3][1]["kwargs"]["judge"] == {"class": "RuleJudge"}
    assert "127.0.0.1" not in made[0][0].read_text()
    settings = [run.episodes[0]["setting"] for path, _ in made for run in read_runs([path])]
    assert settings[0] == settings[2]
    assert len(set(settings)) == 3


def test_an_error_is_kept_without_the_password_of_the_server(tmp_path):
    llm = {"base_url": "http://me:secret@127.0.0.1:9/v1", "model": "m", "retries": 0, "timeout": 5.0}
    path = tmp_path / "e.jsonl"
    play(RecordEpisodes(gym.make("RLPA-v0", judge="llm", llm=llm), path), 1)
    assert "http://127.0.0.1:9/v1: no answer" in read_episodes(path)[0]["turns"][0]["error"]
    assert "secret" not in path.read_text()


def test_an_abandoned_episode_is_marked(tmp_path):
    env = RecordEpisodes(gym.make("RLPA-v0"), tmp_path / "e.jsonl")
    env.reset(seed=1)
    env.step(ACTION)
    env.reset(seed=2)
    env.close()
    assert [(e["seed"], e["finished"]) for e in read_episodes(tmp_path / "e.jsonl")] == [(1, False)]


def test_branches_that_are_only_tried_are_not_recorded(tmp_path):
    env = RecordEpisodes(gym.make("RLPA-v0"), tmp_path / "e.jsonl")
    env.reset(seed=1)
    twin = fork(env)
    over = False
    while not over:
        _, _, terminated, truncated, _ = twin.step(ACTION)
        over = terminated or truncated
    assert not (tmp_path / "e.jsonl").exists()


def line(number):
    return format_action([], f"I had toast, number {number}. What do you do for a living?")


def test_turns_that_were_taken_back_are_not_recorded(tmp_path):
    path = tmp_path / "e.jsonl"
    env = RecordEpisodes(gym.make("RLPA-v0", style="chatty"), path)
    env.reset(seed=1)
    env.step(ACTION)
    state = fork(env)
    env.step(format_action([], "one thing I like is rain"))
    restore(env, state)
    over, number = False, 0
    while not over:
        *_, terminated, truncated, info = env.step(line(number))
        over, number = terminated or truncated, number + 1
    (episode,) = read_episodes(path)
    assert len(episode["turns"]) == number + 1
    assert episode["messages"] == info["messages"]
    assert "one thing I like" not in path.read_text()
    restore(env, state)  # from the end of a written episode, and left before another end
    restore(env, fork(env))
    env.step(line(99))
    env.close()
    first, second = read_episodes(path)
    assert first == episode
    assert (second["finished"], len(second["turns"]), second["messages"][-2]["content"]) == (False, 2, line(99))
    assert "truncated" not in second
    assert len(read_runs([path])[0].episodes) == 1  # of one person and seed: readable, and the last counts


def test_going_back_without_playing_on_writes_nothing_anew(tmp_path):
    env = RecordEpisodes(gym.make("RLPA-v0"), tmp_path / "e.jsonl")
    env.reset(seed=1)
    start = fork(env)
    env.step(ACTION)
    middle = fork(env)
    env.reset(seed=1)
    play(env, 2)
    kept = read_episodes(tmp_path / "e.jsonl")
    assert len(kept) == 2
    restore(env, fork(env))
    for state in (start, middle):
        with pytest.warns(UserWarning, match="not seen"):
            restore(env, state)  # of another dialogue, though of the same person and seed
        env.step(ACTION)
    env.close()
    assert read_episodes(tmp_path / "e.jsonl") == kept


def test_a_torn_last_line_is_reported_and_skipped_and_does_not_eat_the_next(tmp_path):
    path = tmp_path / "e.jsonl"
    env = RecordEpisodes(gym.make("RLPA-v0"), path)
    play(env, 1)
    with path.open("a") as file:
        file.write('{"seed": 2, "tur')
    with pytest.warns(UserWarning, match="torn line 2"):
        assert [episode["seed"] for episode in read_episodes(path)] == [1]
    play(RecordEpisodes(gym.make("RLPA-v0"), path), 3)
    with pytest.warns(UserWarning, match="torn line 2"):
        assert [episode["seed"] for episode in read_episodes(path)] == [1, 3]


def test_several_kills_among_good_episodes_are_skipped_and_a_first_line_alone_may_be_torn(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text('{"seed": 1, "tur\n' + '{"seed": 2}\n' * 10 + '{"seed": 3, "tu')
    with pytest.warns(UserWarning, match="torn line 1, 12"):
        assert len(read_episodes(path)) == 10
    path.write_text('{"seed": 1, "tur')
    with pytest.warns(UserWarning, match="torn line 1"):
        assert read_episodes(path) == []
    path.write_text("these are\n{}\nnotes\n")
    with pytest.raises(RLPAError, match="2 of 3 lines are none"):
        read_episodes(path)


class Thing:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class Tensor:
    """What a tensor of torch offers."""

    def __init__(self, *values):
        self._values, self.dtype = np.array(values), "torch.float64"

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._values


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 2))),
        (np.arange(6.0).reshape(2, 3).T, np.array([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]), np.zeros((3, 2))),
        (np.array([{"a": 1}, None]), np.array([{"a": 1}, None]), np.array([{"a": 2}, None])),
        (Tensor(1.0), Tensor(1.0), Tensor(1.0 + 1e-12)),
        ({"a", "b", 3}, {3, "b", "a"}, {"a", "b", 4}),
        (b"one", b"one", b"two"),
        (re.compile("a"), re.compile("a"), re.compile("b")),
        (partial(json.dumps, indent=1), partial(json.dumps, indent=1), partial(json.dumps, indent=2)),
        (Thing(a=Thing(b=Thing(c=1))).__init__, Thing(a=Thing(b=Thing(c=1))).__init__, Thing(a=Thing(b=Thing(c=2))).__init__),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_object_holds_tells_it_however_deep_it_lies(one, same, other):
    unread: list[str] = []
    for wrap in (lambda value: value, lambda value: Thing(a=[Thing(b=Thing(c={"d": value}))])):
        assert described(wrap(one), unread) == described(wrap(same), unread) != described(wrap(other), unread)
    assert unread == []


def test_plain_identities_are_those_of_kept_episodes_and_chance_and_locks_are_no_part_of_them():
    plain = Thing(a=1, b="x", c=[1, {"k": None}], d=json.dumps, e=LastMessage, f=Composed(1, 2.0), h=[Composed(None, {})])
    assert described(plain) == {"class": "Thing", "settings": "866e907f57c3"}
    plain.d = Thing(lock=threading.Lock(), rng=np.random.default_rng(1), log=logging.getLogger("a"))
    before = described(plain)
    plain.d = Thing(lock=threading.Lock(), rng=np.random.default_rng(2), log=logging.getLogger("b"))
    assert described(plain) == before


def written(value):
    """What is written at a prompt: no file holds its source."""
    namespace = {"__name__": "__main__"}
    exec(value, namespace)
    return namespace


AGENT = "class Mine:\n    word = {word!r}\n    def act(self, messages):\n        return {said!r}\n    name = property(lambda self: {name!r})\n"


def test_an_agent_written_at_a_prompt_is_told_by_its_compiled_code():
    made = [written(AGENT.format(**{"word": "a", "said": "b", "name": "c", **new}))["Mine"]() for new in ({}, {}, {"word": "A"}, {"said": "B"}, {"name": "C"})]
    first, same, *others = map(source, made)
    assert first == same is not None
    assert len({first, *others}) == 4


@pytest.mark.parametrize("hold", [lambda own: own["say"], lambda own: partial(own["say"], 1), lambda own: own["Part"], lambda own: own["Part"]()])
def test_a_function_class_or_object_that_an_agent_holds_is_told_by_what_it_does(hold):
    text = "def say(x, y={y}):\n    return [x, {z}]\nclass Part:\n    def do(self, y={y}):\n        return [n for n in ({z}, 3)]\n"
    first, same, given, done = (described(Thing(a=hold(written(text.format(y=y, z=z))))) for y, z in ((1, 2), (1, 2), (9, 2), (1, 9)))
    assert first == same
    assert given != first != done != given


def test_what_cannot_be_read_is_named_and_an_object_inside_itself_is_read_once():
    own = Thing(a=lambda: 1)
    own.b, own.c = own, own.__init__
    with open(os.devnull) as file:
        own.d = file
        unread: list[str] = []
        assert described(own, unread)["class"] == "Thing"
    assert len(unread) == 2
    assert unread[0].endswith("<lambda>")
    assert unread[1] == "TextIOWrapper"
    assert described(Thing(identity={"is": "me"}, a=lambda: 1), unread) == {"is": "me"}
    assert len(unread) == 2


def test_a_user_among_the_arguments_is_recorded_as_it_came_and_not_as_it_has_become(tmp_path):
    env = RecordEpisodes(gym.make("RLPA-v0", user=ScriptedUser(style="terse")), tmp_path / "e.jsonl")
    for seed in range(2):
        play(env, seed)
    first, second = read_episodes(tmp_path / "e.jsonl")
    assert first["kwargs"]["user"] == second["kwargs"]["user"] == described(ScriptedUser(style="terse"))


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these\nare\nnotes\n")
    with pytest.raises(RLPAError, match="expected one JSON object a line"):
        read_episodes(path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_loses_at_most_the_episode_in_flight(tmp_path):
    path = tmp_path / "e.jsonl"
    code = (
        "import gymnasium as gym, sys; sys.path.insert(0, 'tests/env'); import test_wrappers as t\n"
        f"env = t.RecordEpisodes(gym.make('rlpa_env:RLPA-v0'), {str(path)!r})\n"
        "for seed in range(10**6): t.play(env, seed); print(seed, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        last = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    last = max([last, *(int(line) for line in process.stdout.read().split())])
    process.stdout.close()
    time.sleep(0.05)
    lines = path.read_text().splitlines()
    whole = [json.loads(line)["seed"] for line in lines[: last + 1]]
    assert whole == list(range(last + 1))
    assert len(lines) <= last + 2
