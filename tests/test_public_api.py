"""Names that others rely on, and that importing them stays cheap."""

from __future__ import annotations

import inspect
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import rlpa_agent
import rlpa_env
from rlpa_env import metrics, rewards


def test_the_environment_exports_what_it_promises():
    promised = "RLPAEnv Profile Point Message Action parse_action Matcher LexicalMatcher Judge RuleJudge UserSimulator ScriptedUser"
    promised += " Agent evaluate RLPAError fork restore Verdict"
    for name in promised.split():
        assert hasattr(rlpa_env, name), name
        assert name in rlpa_env.__all__
    assert set(rlpa_env.__all__) <= set(dir(rlpa_env))
    assert list(inspect.signature(rewards.profile_reward).parameters) == ["guess", "truth", "matcher"]
    assert list(inspect.signature(metrics.improvement).parameters) == ["al"]
    assert list(inspect.signature(rlpa_env.RuleJudge().judge).parameters) == ["points", "dialogue", "reply"]
    assert rlpa_env.Point("Age", "3")._fields == ("slot", "value")
    assert rlpa_env.Message("user", "Hello")._fields == ("role", "content")


def test_constructors_need_no_arguments():
    assert isinstance(rlpa_env.LexicalMatcher(), rlpa_env.Matcher)
    assert isinstance(rlpa_env.RuleJudge(), rlpa_env.Judge)
    user = rlpa_env.ScriptedUser()
    user.reset(rlpa_env.load_split("vanilla/val")[0], np.random.default_rng(0))
    assert isinstance(user, rlpa_env.UserSimulator)
    assert rlpa_env.RLPAEnv().reset(seed=0)[0] == "User: Hello"


def test_the_agent_exports_what_it_promises():
    from rlpa_agent.advantages import gae

    assert {"Policy", "Trainer", "TrainConfig", "EnvPool", "Generator", "Learner"} <= set(rlpa_agent.__all__)
    for name in rlpa_agent.__all__:
        assert getattr(rlpa_agent, name) is not None
    keywords = [p.name for p in inspect.signature(gae).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keywords == ["gamma_token", "gamma_turn", "lam_token", "lam_turn", "bootstrap"]
    with pytest.raises(AttributeError, match="Polisy"):
        rlpa_agent.Polisy  # noqa: B018


@pytest.mark.parametrize("name", ["RLPA-v0", "RLPA-Extended-v0", "RLPA-Shift-v0", "RLPA-Long-v0"])
def test_ids_are_registered_with_text_entry_points(name):
    spec = gym.spec(name)
    assert isinstance(spec.entry_point, str)
    assert spec.max_episode_steps == (70 if "Long" in name else 10)


def test_imports_stay_cheap():
    code = "import sys, rlpa_env, rlpa_agent; print([m for m in ('torch', 'transformers', 'matplotlib', 'openai') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
