"""`rlpa-agent`: names of policies, and mistakes."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import pytest

from rlpa_agent import cli
from rlpa_agent.cli import load_policy
from rlpa_agent.config import PRESETS, RolloutConfig
from rlpa_agent.credit import profile_payments
from rlpa_agent.rollout import collect
from rlpa_env import ConfigError, evaluate, format_action


def test_a_mistyped_run_is_no_model_of_a_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"policy: runs: expected one of 'tiny'; got 'tyny'. Did you mean 'tiny'"):
        cli.policy_path("runs/tyny")
    with pytest.raises(ConfigError, match="does not exist"):
        cli.policy_path("./nothing/here")
    assert cli.policy_path("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"  # of a hub, as it looks


@pytest.mark.parametrize("words", [["eval", "--env", "RLPA-v1"], ["eval", "--policy", "./runs/tyny"], ["inspect", "./nothing"]])
def test_mistakes_are_told_in_a_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert str(caught.value.code).startswith("rlpa-agent: ")
    assert len(str(caught.value.code).splitlines()) == 1


def test_version_as_a_module():
    done = subprocess.run([sys.executable, "-m", "rlpa_agent", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rlpa-agent 0.")


@pytest.mark.parametrize(("words", "code"), [([], 2), (["-h"], 0), (["--help"], 0)])
def test_help_names_every_verb_and_preset(words, code, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    told = capsys.readouterr().out
    assert caught.value.code == code
    assert all(name in told for name in ("train", "sft", "dpo", "eval", "chat", "inspect", "replay", *cli.PRESETS, *cli.BASELINES["sft"]))


def test_chat_shows_what_a_policy_writes_in_brackets_as_it_is(monkeypatch, capsys):
    said = iter([format_action([("Interests", "[music]")], "Do you like [music]? :cat: [/INST] \\[b]"), "[/] no profile [x]"])
    agent = SimpleNamespace(chat=SimpleNamespace(state_limit=lambda turns: None), act=lambda messages: next(said))
    monkeypatch.setattr("rlpa_agent.evaluate.policy_agent", lambda *names, **options: agent)
    monkeypatch.setattr("sys.stdin", io.StringIO("I bake.\nNo.\n\n"))
    cli.main(["chat", "--policy", "some/model"])
    shown = capsys.readouterr().out
    for text in ("Do you like [music]? :cat: [/INST] \\[b]", "Interests: [music]", "[/] no profile [x]"):
        assert text in shown


MY_TASK = """
import gymnasium as gym
from rlpa_env import RLPAEnv, Verdict

class Brevity:
    def judge(self, points, dialogue, reply):
        return Verdict(len(reply.split()) < 6, True, True, True, True)

class Bonus(gym.RewardWrapper):
    def reward(self, reward):
        return reward + 0.25

gym.register("Terse-v0", entry_point=lambda **kwargs: Bonus(RLPAEnv(judge=Brevity(), **kwargs)), kwargs={"max_turns": 3}, max_episode_steps=3)
"""


def test_an_id_of_a_module_of_ones_own_is_trained_in_and_scored(tmp_path, monkeypatch):
    (tmp_path / "my_task.py").write_text(MY_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    rollout = RolloutConfig(env_id="my_task:Terse-v0")
    assert rollout.max_turns == 3
    env = cli.environments(rollout)()
    env.reset(seed=1)
    _, short, _, _, info = env.step(format_action([], "Hi, how are you?"))
    _, long, _, _, later = env.step(format_action([], "Hi, how are you on this fine day of the year?"))
    assert (info["reward/response"], later["reward/response"]) == (1.0, 0.0)
    assert (short, long) == (1.25, 0.25)
    (row,) = evaluate({"still": SimpleNamespace(act=lambda messages: format_action([], "Well."))}, env_id="my_task:Terse-v0", users=1, references="none")
    assert row["response"] == 1.0


REGISTERED = {"split": "extended/train", "max_turns": 4, "cues": "implicit", "style": "terse", "credit": "grounded", "profile_weight": 3.0, "response_weight": 0.5}


@pytest.fixture
def own_id():
    gym.register("Own-v0", "rlpa_env.env:RLPAEnv", max_episode_steps=4, kwargs=REGISTERED)
    yield "Own-v0"
    del gym.registry["Own-v0"]


def test_what_an_id_is_registered_with_is_trained_in_unless_it_is_asked_otherwise(own_id):
    rollout = RolloutConfig(env_id=own_id)
    assert {name: getattr(rollout, name) for name in REGISTERED} == REGISTERED
    core, usual = cli.environments(rollout)().unwrapped, gym.make(own_id).unwrapped
    for name in ("max_turns", "credit", "profile_weight", "response_weight"):
        assert getattr(core, name) == getattr(usual, name) == REGISTERED[name]
    for env in (core, usual):
        env.reset(seed=3)
    assert core.profile == usual.profile
    assert (core._user.cues, core._user.style_name) == (usual._user.cues, usual._user.style_name) == ("implicit", "terse")
    asked = cli.parse_preset("train", ["tiny", "--rollout.env-id", own_id, "--rollout.cues", "explicit"]).config.rollout
    assert (asked.cues, asked.credit, asked.profile_weight, asked.style) == ("explicit", "grounded", 3.0, "terse")  # not the 5 of the preset
    plain = cli.parse_preset("train", ["tiny", "--rollout.env-id", "RLPA-Shift-v0"]).config.rollout
    assert plain.profile_weight == PRESETS["tiny"].rollout.profile_weight != 1.0
    sft = cli.parse_preset("sft", ["tiny", "--env-id", own_id])
    assert (sft.data.cues, sft.data.profile_weight, sft.data.max_turns) == ("implicit", 3.0, 4)


class Punished(gym.RewardWrapper):
    """An own reward: 1.5 less for every reply."""

    def reward(self, reward):
        return reward - 1.5


def test_credit_of_an_environment_made_in_python_needs_no_weight_in_the_configuration(tmp_path):
    """The configuration says 5, the environment weighs profiles 2; a wrapper takes 1.5. Lines get 2·F1 less their price, replies the rest."""
    env = Punished(gym.make("RLPA-v0", split="vanilla/val", profile_weight=2.0))
    policy = load_policy(PRESETS["tiny"], cli.policy_path("shipped"))
    dialogues = collect(policy, [env], seeds=range(4), max_new_tokens=160, max_turns=4)
    payments, turns = profile_payments(policy.chat, "line", 0.0), [turn for dialogue in dialogues for turn in dialogue.turns]
    assert any(turn.parts["reward/profile"] for turn in turns)
    for turn in turns:
        *profile, (_, reply) = payments(turn)
        assert sum(paid for _, paid in profile) == pytest.approx(2.0 * turn.parts["reward/profile"])
        assert reply == pytest.approx(turn.parts["reward/response"] - 1.5)


def test_a_module_that_python_does_not_find_is_named_with_what_to_do():
    with pytest.raises(ConfigError, match=r"env id 'nowhere:Terse-v0': .*No module named 'nowhere'.*PYTHONPATH"):
        RolloutConfig(env_id="nowhere:Terse-v0")
    with pytest.raises(ConfigError, match=r"env id '.here:Terse-v0': .*'.here' is relative"):
        RolloutConfig(env_id=".here:Terse-v0")
