"""Numeric views: they pass stable-baselines3's checker, see what an agent sees, and change nothing underneath."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from rlpa_env import ConfigError, DialogueActs, TokenLevel, format_action
from rlpa_env.numeric import ASKS, EDITS, OPENERS, ByteTokenizer


@pytest.mark.parametrize(
    "wrap", [DialogueActs, lambda env: DialogueActs(env, flat=True), TokenLevel, lambda env: TokenLevel(env, max_tokens=3)]
)
def test_stable_baselines3_accepts_them(wrap):
    check_env(wrap(gym.make("RLPA-v0")))


def move(opener, ask, edit):
    return np.array([OPENERS.index(opener), ASKS.index(ask), EDITS.index(edit)])


def test_a_move_becomes_a_reply_and_an_edit_of_the_profile():
    env = DialogueActs(gym.make("RLPA-v0", cues="explicit", style="plain"))
    env.reset(seed=0)
    listed = []
    for _ in range(6):
        env.step(move("greeting", "Occupation", "list everything told"))
        action = env.unwrapped.last_action
        assert action.error == ""
        assert action.reply.endswith("?")
        listed.append(len(action.profile))
    assert max(listed) >= 1
    env.step(move("small talk", "nothing", "drop the newest point"))
    assert len(env.unwrapped.last_action.profile) == max(0, listed[-1] - 1)
    assert "?" not in env.unwrapped.last_action.reply


def test_flat_actions_are_the_same_moves():
    left, right = DialogueActs(gym.make("RLPA-v0")), DialogueActs(gym.make("RLPA-v0"), flat=True)
    assert np.array_equal(left.reset(seed=3)[0], right.reset(seed=3)[0])
    for opener, ask, edit in ((1, 2, 0), (2, 3, 2), (3, 1, 1), (0, 0, 3)):
        number = np.ravel_multi_index((opener, ask, edit), (len(OPENERS), len(ASKS), len(EDITS)))
        a, b = left.step(np.array([opener, ask, edit])), right.step(number)
        assert np.array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]


def test_features_are_named_and_follow_the_dialogue():
    env = DialogueActs(gym.make("RLPA-v0", cues="explicit", style="plain"))
    first, _ = env.reset(seed=1)
    assert first.shape == (len(env.FEATURES),)
    names = dict(zip(env.FEATURES, range(len(first)), strict=True))
    later = env.step(move("greeting", "Location", "keep"))[0]
    assert later[names["turn"]] > first[names["turn"]] == 0
    assert later[names["asked: Location"]] > first[names["asked: Location"]] == 0
    assert later[names["asked: Age"]] == 0


def test_the_hidden_profile_does_not_reach_the_features():
    """Two people who say the same have the same features, whoever they are."""
    env = DialogueActs(gym.make("RLPA-v0"))
    assert np.array_equal(env.reset(seed=0)[0], env.reset(seed=1)[0])


def test_impossible_moves_are_refused():
    env = DialogueActs(gym.make("RLPA-v0"))
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="expected an action"):
        env.step(np.array([len(OPENERS), 0, 0]))


def test_tokens_make_an_action_and_the_reward_comes_at_its_end():
    plain, env = gym.make("RLPA-v0"), TokenLevel(gym.make("RLPA-v0"))
    plain.reset(seed=5)
    observation, _ = env.reset(seed=5)
    text = format_action([("Age", "34")], "Hi there, I just made tea. How was your day? é")
    rewards = []
    for token in [*ByteTokenizer().encode(text), ByteTokenizer.eos_token_id]:
        observation, reward, _terminated, _truncated, info = env.step(token)
        rewards.append(reward)
    after = plain.step(text)
    assert sum(rewards[:-1]) == 0.0
    assert rewards[-1] == after[1]
    assert info == after[4]
    assert ByteTokenizer().decode(observation.tolist()).strip() == after[0]
    assert env.observation_space.contains(observation)


def test_an_action_that_does_not_end_is_sent_when_it_is_full():
    env = TokenLevel(gym.make("RLPA-v0"), max_tokens=5)
    env.reset(seed=0)
    ends = []
    for _ in range(50):
        *_, terminated, truncated, info = env.step(65)
        ends.append(terminated or truncated)
        if ends[-1]:
            break
    assert info["parse_error"] == "no_profile"
    assert env.unwrapped.last_action.reply == "AAAAA"
    assert len(ends) % 5 == 0


def test_tokens_outside_the_vocabulary_are_refused():
    env = TokenLevel(gym.make("RLPA-v0"))
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="0 … 256"):
        env.step(257)
    with pytest.raises(ConfigError, match="context"):
        TokenLevel(gym.make("RLPA-v0"), context=0)
