"""The environment as Gymnasium users meet it."""

from __future__ import annotations

import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rlpa_env
from rlpa_env import ConfigError, ModelError, Point, Profile, Verdict, fork, format_action, restore
from rlpa_env.agents import make_agent
from rlpa_env.testing import check_judge

IDS = ("RLPA-v0", "RLPA-Extended-v0", "RLPA-Shift-v0", "RLPA-Long-v0")
INFO_TYPES = {
    "session": int, "privacy/untold": int, "privacy/withdrawn": int,
    "messages": list,
    "turn": int,
    "reward/profile": float,
    "reward/response": float,
    "reward/profile_share": float,
    "privacy/cost": float,
    "reward/valid": bool,
    "profile/precision": float,
    "profile/recall": float,
    "profile/f1": float,
    "profile/grounded_f1": float,
    "profile/invented": float,
    "profile/ceiling": float,
    "profile/partial": tuple,
    "profile/revealed": float,
    "judge/naturalness": bool,
    "judge/relevance": bool,
    "judge/logic": bool,
    "judge/engagement": bool,
    "judge/informativeness": bool,
    "user/patience": int,
    "parse_error": str,
    "stop_reason": str,
    "error": str,
}
GOOD = format_action([Point("Occupation", "baker")], "I had a slow morning myself. What do you do for a living?")


def play(env: gym.Env, agent_name: str = "attentive", seed: int = 0, **reset):
    agent = make_agent(agent_name)
    observation, info = env.reset(seed=seed, **reset)
    trace = [(observation, 0.0, info)]
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(info["messages"]))
        trace.append((observation, reward, info))
        over = terminated or truncated
    return trace, terminated, truncated


@pytest.mark.parametrize("name", IDS)
def test_check_env_passes_without_a_warning(name):
    check_env(gym.make(name).unwrapped, skip_render_check=False)


@pytest.mark.parametrize("name", IDS)
def test_make_with_the_prefix_that_worker_processes_need(name):
    env = gym.make(f"rlpa_env:{name}")
    observation, info = env.reset(seed=3)
    assert observation == "User: Hello"
    assert [message["role"] for message in info["messages"]] == ["system", "user"]
    assert str(env.spec.max_episode_steps) in info["messages"][0]["content"]


@pytest.mark.parametrize("name", IDS)
def test_info_has_the_same_keys_and_types_every_time(name):
    env = gym.make(name)
    trace, *_ = play(env)
    for _, _, info in trace:
        assert {key: type(value) for key, value in info.items()} == INFO_TYPES


def test_turn_limit_is_a_truncation_and_names_itself():
    env = gym.make("RLPA-v0", style="chatty")
    trace, terminated, truncated = play(env, "attentive", seed=1)
    assert len(trace) == 11
    assert (terminated, truncated) == (False, True)
    assert trace[-1][2]["stop_reason"] == "turn_limit"
    assert trace[-2][2]["stop_reason"] == ""


def test_a_user_who_leaves_terminates():
    env = gym.make("RLPA-v0", style="impatient")
    trace, terminated, truncated = play(env, "interrogator")
    assert (terminated, truncated) == (True, False)
    assert trace[-1][2]["stop_reason"] == "user_left"
    assert trace[-1][2]["user/patience"] == 0
    assert len(trace) < 11


def test_reward_is_the_weighted_sum_of_its_parts():
    env = gym.make("RLPA-v0", profile_weight=0.5, response_weight=2.0)
    trace, *_ = play(env)
    for _, reward, info in trace[1:]:
        assert reward == pytest.approx(0.5 * info["reward/profile"] + 2.0 * info["reward/response"])
        assert info["reward/profile_share"] == 0.5 * info["reward/profile"]
    assert any(info["reward/response"] for _, _, info in trace)
    assert any(info["reward/profile"] for _, _, info in trace)


def test_after_the_user_left_only_a_reset_goes_on():
    env = gym.make("RLPA-v0").unwrapped
    _, info = env.reset(seed=0)
    left = False
    while not left:
        _, _, left, _, info = env.step(format_action([], "You are so wonderful, amazing and perfect, I adore you!"))
    for _ in range(2):
        with pytest.raises(gym.error.ResetNeeded, match="user_left"):
            env.step(GOOD)
    assert env.turn == info["turn"]
    env.reset(seed=0)
    assert env.step(GOOD)[4]["turn"] == 1


def test_a_judge_may_grade_instead_of_passing():
    class Grades:
        def judge(self, points, dialogue, reply):
            return Verdict(True, True, True, True, True, graded=0.25) if reply else Verdict(False, False, False, False, False)

    check_judge(Grades())
    env = gym.make("RLPA-v0", judge=Grades(), response_weight=2.0)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(format_action([], "Hi there, I just made tea."))
    assert (info["reward/response"], reward) == (0.25, 0.5)
    _, reward, _, _, info = env.step("no form at all")
    assert (info["reward/response"], reward) == (0.0, 0.0)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"graded: expected a number in \[0, 1\]"):
            Verdict(True, True, True, True, True, graded=wrong)

    class PaysSilence:
        def judge(self, points, dialogue, reply):
            return Verdict(bool(reply), True, True, True, True, graded=0.1)

    with pytest.raises(AssertionError, match=r"must not be paid; got 0\.1"):
        check_judge(PaysSilence())


def test_a_perfect_guess_earns_1_and_grounded_credit_does_not():
    for credit, expected in (("paper", 1.0), ("grounded", 0.0)):
        env = gym.make("RLPA-v0", credit=credit)
        env.reset(seed=4)
        action = format_action(env.unwrapped.profile.points, "Hi there, I just made tea.")
        _, _, _, _, info = env.step(action)
        assert info["profile/f1"] == 1.0
        assert info["reward/profile"] == expected


@pytest.mark.parametrize("credit", ["paper", "grounded"])
def test_partial_says_what_each_listed_point_added(credit):
    env = gym.make("RLPA-v0", credit=credit)
    env.reset(seed=4)
    told, true = env.unwrapped.revealed, env.unwrapped.profile.points
    guess = [*true[:2], Point("Hobby", "zorblaxing"), *true[2:4]]
    _, _, _, _, info = env.step(format_action(guess, "Hi there, I just made tea."))
    hits = [point in true and (credit == "paper" or point in told) for point in guess]
    assert info["profile/partial"] == tuple(2 * sum(hits[:n]) / (n + len(true)) for n in range(1, 6))
    assert info["profile/partial"][-1] == info["reward/profile"]
    _, _, _, _, info = env.step("<profile>\n- Hobby: chess\n</profile>")
    assert info["parse_error"]
    assert info["profile/partial"] == ()


def test_a_malformed_action_earns_nothing_and_never_shows_its_profile_to_the_user():
    env = gym.make("RLPA-v0")
    env.reset(seed=0)
    observation, reward, *_, info = env.step("<profile>\n- Occupation: zorblax\n")
    assert reward == 0.0
    assert info["parse_error"]
    assert "zorblax" not in observation
    assert "zorblax" in info["messages"][-2]["content"]


def test_observation_is_the_dialogue_without_profile_blocks():
    env = gym.make("RLPA-v0")
    env.reset(seed=0)
    observation, *_, info = env.step(GOOD)
    user = info["messages"][-1]["content"]
    assert observation == (
        f"User: Hello\nAssistant: I had a slow morning myself. What do you do for a living?\nUser: {user}"
    )
    assert info["messages"][-2]["content"] == GOOD


def _transcript(name: str) -> str:
    trace, *_ = play(gym.make(name), seed=11)
    return json.dumps([(observation, reward, info) for observation, reward, info in trace], sort_keys=True)


def _in_processes(code: str) -> list[str]:
    """What it prints under two hash seeds."""
    command = [sys.executable, "-c", code]
    return [subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")]


def test_two_processes_with_different_hash_seeds_give_the_same_bytes():
    outputs = _in_processes("import sys; sys.path.insert(0, 'tests/env'); import test_env; print(test_env._transcript('RLPA-Shift-v0'))")
    assert outputs[0] == outputs[1]
    assert outputs[0].strip() == _transcript("RLPA-Shift-v0")


def test_the_most_common_points_are_in_one_order_in_every_process():
    """Those that are equally common too: prior and stuffer list them."""
    outputs = _in_processes("from rlpa_env.agents import frequencies; print(frequencies('vanilla/val'))")
    assert outputs[0] == outputs[1]


def test_seed_then_no_seed_goes_on_with_other_people():
    env = gym.make("RLPA-v0")
    env.reset(seed=5)
    first = env.unwrapped.profile.id
    env.reset()
    second = env.unwrapped.profile.id
    env.reset(seed=5)
    assert env.unwrapped.profile.id == first
    env.reset()
    assert env.unwrapped.profile.id == second != first


def test_the_next_person_does_not_depend_on_what_was_said():
    drawn = []
    for replies in (1, 5):
        env = gym.make("RLPA-v0")
        env.reset(seed=5)
        for _ in range(replies):
            env.step(GOOD)
        env.reset()
        drawn.append(env.unwrapped.profile.id)
    assert drawn[0] == drawn[1]


NONCE = {
    "id": "nonce",
    "slots": {
        "Occupation": "zorblaxer",
        "Interests": ["quimbling", "frobbery", "dorfling"],
        "Location": "Vexopolis",
        "Personality Traits": ["glimmish", "snorty"],
        "Shoe Habit": "wumpusing",
    },
}


def test_nothing_unrevealed_is_in_observation_or_info():
    values = {p.value for p in Profile.from_mapping(NONCE).points}
    for seed in range(30):
        env = gym.make("RLPA-v0", cues="explicit")
        agent = make_agent("attentive")
        observation, info = env.reset(seed=seed, options={"profile": NONCE})
        for _ in range(10):
            known = {point.value for point in env.unwrapped.revealed}
            text = (observation + json.dumps(info)).casefold()
            for value in values - known:
                assert value.casefold() not in text, (seed, value)
            observation, _, terminated, truncated, info = env.step(agent.act(info["messages"]))
            if terminated or truncated:
                break


def test_fork_gives_the_same_bytes_and_exactly_the_turns_that_are_left():
    env = gym.make("RLPA-v0", style="chatty")
    env.reset(seed=21)
    for _ in range(5):
        env.step(GOOD)
    twin = fork(env)
    texts = [format_action([], f"I thought about tea number {i}. What do you do for fun?") for i in range(9)]
    ends = []
    for branch in (env, twin):
        trace = []
        for text in texts:
            observation, reward, terminated, truncated, info = branch.step(text)
            trace.append((observation, reward, terminated, truncated, info))
            if terminated or truncated:
                break
        ends.append(trace)
    assert ends[0] == ends[1]
    assert len(ends[0]) <= 5
    assert ends[0][-1][3] or ends[0][-1][2]


def test_a_fork_does_not_move_the_original():
    env = gym.make("RLPA-v0")
    env.reset(seed=2)
    env.step(GOOD)
    before = env.unwrapped.snapshot()
    twin = fork(env)
    for _ in range(2):
        twin.step(GOOD)
    twin.reset(seed=9)
    after = env.unwrapped.snapshot()
    assert before.values == after.values
    assert before.random == after.random
    assert env.unwrapped.profile.id != twin.unwrapped.profile.id


def test_a_fork_shares_no_queue_count_or_random_stream_with_its_origin():
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("RLPA-v0"))
    env.reset(seed=2)
    for space in (env.action_space, env.observation_space):
        space.seed(3)
    env.step(GOOD)
    twin, other = fork(env), fork(env)
    over = False
    while not over:
        *_, terminated, truncated, _ = twin.step(GOOD)
        over = terminated or truncated
    assert (len(env.return_queue), len(twin.return_queue)) == (0, 1)
    restore(env, twin)
    assert len(env.return_queue) == 1
    env.return_queue.clear()
    assert len(twin.return_queue) == 1
    spaces = ("action_space", "observation_space")
    ahead = {name: [getattr(twin, name).sample() for _ in range(3)] for name in spaces}
    for branch in (other, env):
        assert {name: [getattr(branch, name).sample() for _ in range(3)] for name in spaces} == ahead


def test_restore_goes_back_turn_count_included_and_can_be_used_twice():
    env = gym.make("RLPA-v0", style="chatty")
    env.reset(seed=2)
    for _ in range(4):
        env.step(GOOD)
    state = fork(env)
    answers = []
    for _ in range(2):
        restore(env, state)
        turns = []
        over = False
        while not over:
            observation, _, terminated, truncated, _ = env.step(GOOD + "!")
            turns.append(observation)
            over = terminated or truncated
        answers.append(turns)
    assert answers[0] == answers[1]
    assert len(answers[0]) <= 6


def test_shift_changes_the_truth_before_the_sixth_action_is_scored():
    changed = 0
    for seed in range(20):
        env = gym.make("RLPA-Shift-v0", style="chatty")
        agent = make_agent("attentive")
        _, info = env.reset(seed=seed)
        start = env.unwrapped.profile
        told = set()
        for turn in range(1, 11):
            if turn == 6:
                now = env.unwrapped.profile
                gone = set(start.points) - set(now.points)
                assert len(gone) >= 2
                assert len(now.points) == len(start.points)
                if told:
                    assert gone & told
                    changed += 1
            elif turn < 6:
                assert env.unwrapped.profile == start
                told = set(env.unwrapped.revealed)
            _, _, terminated, truncated, info = env.step(agent.act(info["messages"]))
            if terminated or truncated:
                break
    assert changed >= 10


def test_shift_is_announced_within_two_turns():
    announced = total = 0
    for seed in range(30):
        env = gym.make("RLPA-Shift-v0", style="chatty", cues="explicit")
        agent = make_agent("attentive")
        _, info = env.reset(seed=seed)
        start, told = set(env.unwrapped.profile.points), set()
        for _ in range(4):
            _, _, over, _, info = env.step(agent.act(info["messages"]))
            told = set(env.unwrapped.revealed)
            if over:
                break
        if over or not told:
            continue
        for _ in range(3):  # the message before action 6, and those after actions 6 and 7
            _, _, over, _, info = env.step(agent.act(info["messages"]))
            if over:
                break
        if over:
            continue
        new = set(env.unwrapped.profile.points) - start
        total += 1
        announced += bool(new & set(env.unwrapped.revealed))
    assert total >= 15
    assert announced == total


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"split": "vanila/train"}, "vanilla/train"),
        ({"cues": "explict"}, "explicit"),
        ({"style": "tersee"}, "terse"),
        ({"style": ["terse"]}, "terse"),
        ({"judge_sees": "inferrd"}, "inferred"),
        ({"credit": "papr"}, "paper"),
        ({"on_error": "trunc"}, "truncate"),
        ({"user": "script"}, "scripted"),
        ({"matcher": "lexica"}, "lexical"),
        ({"judge": "rule"}, "rules"),
    ],
)
def test_unknown_values_name_the_choices_and_the_nearest(arguments, expected):
    with pytest.raises(rlpa_env.ConfigError, match=f"Did you mean '{expected}'"):
        gym.make("RLPA-v0", **arguments)


@pytest.mark.parametrize("split", [None, 5, ["vanilla/test"]])
def test_a_split_that_is_no_name_is_refused_with_the_choices(split):
    with pytest.raises(rlpa_env.ConfigError, match=r"split: expected one of 'vanilla/train'.*path ending in \.jsonl"):
        rlpa_env.RLPAEnv(split=split)


@pytest.mark.parametrize("llm", ["http://me:secret@x", 3, ["m"], {"retries": "3"}, {"model": object()}])
def test_models_are_settings_and_those_of_the_right_type(llm):
    with pytest.raises(rlpa_env.ConfigError, match=r"llm.*expected") as caught:
        rlpa_env.RLPAEnv(judge="llm", llm=llm)
    assert "secret" not in str(caught.value)


def test_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="turn_limit"):
        gym.make("RLPA-v0", turn_limit=3)


@pytest.mark.parametrize(
    "arguments",
    [{"shift_turn": 1}, {"profile_weight": -1.0}, {"response_weight": float("nan")}, {"sessions": 0}, {"sessions": None}, {"sessions": True}, {"max_turns": 1.5}, {"privacy_weight": "1"}],
)
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(rlpa_env.ConfigError, match="expected"):
        gym.make("RLPA-v0", **arguments)


LLM = {"base_url": "http://127.0.0.1:9/of-nobody-else", "model": "m"}  # clients are shared: this one was not made before


@pytest.mark.parametrize(
    "arguments", [{"user": "llm", "llm": LLM}, {"judge": "llm", "llm": LLM}, {"matcher": "llm", "llm": LLM}, {"matcher": "embedding"}]
)
def test_parts_that_are_not_there_say_so(arguments, monkeypatch):
    monkeypatch.setattr("rlpa_env.errors.find_spec", lambda package: None)
    with pytest.raises(rlpa_env.NotInstalledError, match=r"pip install '\.\[(llm|embed)\]'"):
        gym.make("RLPA-v0", **arguments)


class Failing:
    def judge(self, points, dialogue, reply):
        raise ModelError("judge: no answer after 3 tries")


def test_a_failing_judge_is_a_marked_failure_and_never_a_reward():
    env = rlpa_env.RLPAEnv(judge=Failing())
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(GOOD)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["reward/valid"] is False
    assert info["stop_reason"] == "failure"
    assert "no answer" in info["error"]
    assert observation.endswith("What do you do for a living?")


def test_on_error_raise():
    env = rlpa_env.RLPAEnv(judge=Failing(), on_error="raise")
    env.reset(seed=0)
    with pytest.raises(ModelError):
        env.step(GOOD)


def test_reset_takes_an_id_or_a_mapping_and_refuses_the_rest():
    env = gym.make("RLPA-v0")
    env.reset(seed=0, options={"profile": "vanilla/train/0042"})
    assert env.unwrapped.profile.id == "vanilla/train/0042"
    env.reset(seed=0, options={"profile": NONCE})
    assert env.unwrapped.profile.id == "nonce"
    with pytest.raises(rlpa_env.ConfigError, match=r"profile id: .*3821 in all") as caught:
        env.reset(options={"profile": "vanilla/train/99999" + "9" * 1000})
    assert "'vanilla/train/" in str(caught.value).split("got")[0]  # near ones are listed
    assert "Did you mean" not in str(caught.value)  # none is near enough to be meant
    assert len(str(caught.value)) < 500
    with pytest.raises(rlpa_env.ConfigError, match="reset option"):
        env.reset(options={"profil": "x"})


def test_a_file_with_values_that_no_guess_can_hold_is_warned_of(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps({"id": "x", "slots": {"Music": ["rock and roll", "jazz"], "Age": "30-35"}}) + "\n")
    with pytest.warns(UserWarning, match=r"people\.jsonl: 2 of 3 values cannot be listed .*'rock and roll'"):
        env = rlpa_env.RLPAEnv(split=path)
    env.reset(seed=0)
    assert env.step(format_action(env.profile.points, "Hi."))[4]["profile/f1"] < 1


def test_split_from_a_file(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps(NONCE) + "\n")
    for name in (str(path), path):
        env = gym.make("RLPA-v0", split=name)
        env.reset(seed=0)
        assert env.unwrapped.profile.id == "nonce"


@pytest.mark.parametrize("use", [lambda env: env.step("x"), fork, lambda env: env.profile, lambda env: env.revealed, lambda env: env.render()])
def test_what_needs_an_episode_is_refused_before_reset(use):
    with pytest.raises(gym.error.ResetNeeded, match=r"RLPAEnv\.\w+: expected reset"):
        use(rlpa_env.RLPAEnv(render_mode="ansi"))
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        fork(gym.make("RLPA-v0"))
    empty = rlpa_env.RLPAEnv()
    assert (empty.turn, empty.last_action.profile, empty.matched, empty.dialogue) == (0, (), (), ())


def test_render_ansi_shows_dialogue_points_and_rewards():
    env = gym.make("RLPA-v0", render_mode="ansi")
    env.reset(seed=0)
    env.step(format_action([Point("Occupation", "zorblax")], "Hi, I made tea."))
    text = env.render()
    assert "I made tea" in text
    assert "zorblax" in text
    assert "profile reward" in text
    assert env.unwrapped.profile.points[0].value in text


def test_human_render_prints_and_returns_none(capsys):
    env = gym.make("RLPA-v0", render_mode="human")
    env.reset(seed=0)
    assert env.render() is None
    assert "Hello" in capsys.readouterr().out


def test_a_failed_turn_shows_no_score_of_the_turn_before():
    class OnceOnly(rlpa_env.RuleJudge):
        asked = 0

        def judge(self, points, dialogue, reply):
            self.asked += 1
            if self.asked > 1:
                raise ModelError("down")
            return super().judge(points, dialogue, reply)

    env = gym.make("RLPA-v0", judge=OnceOnly())
    env.reset(seed=4)
    keys = [f"profile/{key}" for key in ("precision", "recall", "f1", "grounded_f1", "invented", "ceiling")]
    before = env.step(format_action([*env.unwrapped.profile.points, Point("Hobby", "zorblaxing")], "Hi, I made tea."))[4]
    assert before["profile/f1"] > 0.9
    assert before["profile/invented"] > 0
    after = env.step(format_action([Point("Age", "3")], "Hi, I made more tea."))[4]
    assert [after[key] for key in keys] == [0.0] * len(keys)
    assert after["profile/partial"] == ()


def test_vector_envs_of_gymnasium_work_without_shared_memory():
    envs = gym.make_vec("rlpa_env:RLPA-v0", num_envs=3, vectorization_mode="sync")
    observations, _ = envs.reset(seed=[1, 2, 3])
    assert list(observations) == ["User: Hello"] * 3
    observations, rewards, *_ = envs.step([GOOD] * 3)
    assert all("Assistant:" in text for text in observations)
    assert np.asarray(rewards).shape == (3,)
    envs.close()
