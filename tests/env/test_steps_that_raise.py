"""A step that raises did not happen: for one environment, and for all of a vector environment."""

from __future__ import annotations

import json
from concurrent.futures import Future

import gymnasium as gym
import numpy as np
import pytest

import rlpa_env
from rlpa_env import ModelError, Point, RLPAVectorEnv, format_action
from rlpa_env.vector import begin_step, make_calls

SAID = [format_action([Point("Age", str(20 + n))], f"I made tea number {n}. What do you like to do, and where?") for n in range(4)]


class Down:
    """Raises an error at a call; the calls after it go through."""

    error: BaseException | None = None
    at = 0

    def check(self):
        self.at -= 1
        if self.error is not None and self.at < 0:
            error, self.error = self.error, None
            raise error


class Judge(rlpa_env.RuleJudge, Down):
    """A judge of one's own, which does not wait."""

    def judge(self, *args):
        self.check()
        return super().judge(*args)


class User(rlpa_env.ScriptedUser, Down):
    """A user of one's own, whose mind has moved on when it fails."""

    def reply(self, *args):
        turn = super().reply(*args)
        self.check()
        return turn


class Client(rlpa_env.ChatClient, Down):
    """Users say their draft, judges praise."""

    def __init__(self):
        super().__init__(base_url="http://127.0.0.1:9/v1", model="m")

    def begin(self, messages, **options):
        future = Future()
        try:
            self.check()
            asked = json.loads(messages[1]["content"])
            future.set_result(asked.get("say") or json.dumps({name: {"reason": "", "pass": True} for name in rlpa_env.CRITERIA}))
        except ModelError as error:
            future.set_exception(error)
        return future

    def __deepcopy__(self, memo):
        return self


def parts(kind):
    """Arguments of an environment, and what fails in it."""
    if kind in ("judge", "user"):
        part = {"judge": Judge, "user": User}[kind]()
        return {kind: part}, part
    client = Client()
    own = {"judge": rlpa_env.LLMJudge(client)} if kind == "waiting judge" else {"user": rlpa_env.LLMUser(client)}
    return own, client


KINDS = ("judge", "user", "waiting judge", "waiting user")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ModelError("down"), KeyboardInterrupt(), ValueError("a fault")])
def test_a_step_that_raises_can_be_tried_again_as_if_it_had_not_been(kind, error):
    own, down = parts(kind)
    env, twin = (gym.make("RLPA-v0", on_error="raise", max_episode_steps=4, **some) for some in (own, parts(kind)[0]))
    env.reset(seed=3)
    twin.reset(seed=3)
    core = env.unwrapped
    for turn, said in enumerate(SAID):
        before = core.turn, core.dialogue, core.revealed, core.last_action, core.last_verdict
        for step in (env.step, lambda said: make_calls([env], [said]), lambda said: begin_step(env, said, tuple).result(5)):
            down.error, down.at = error, 0
            with pytest.raises(type(error)):
                step(said)
            if step is env.step or isinstance(error, ModelError):  # of what goes wrong in the background, the next step learns
                assert (core.turn, core.dialogue, core.revealed, core.last_action, core.last_verdict) == before
        after = env.step(said)
        assert after == twin.step(said)
        assert (after[4]["turn"], len(core.dialogue)) == (turn + 1, 2 * turn + 3)
    assert after[3]  # the limit counts the turns that happened


ACTS = [np.array([opener, ask, edit]) for opener, ask, edit in ((1, 2, 2), (1, 3, 2), (3, 4, 2), (1, 5, 2), (2, 1, 3), (6, 0, 3))]
TOKENS = [65, 66, 67, 68, 256]


@pytest.mark.parametrize(("wrap", "moves"), [(rlpa_env.DialogueActs, ACTS), (lambda env: rlpa_env.TokenLevel(env, max_tokens=3), TOKENS)], ids=["acts", "tokens"])
def test_a_wrapper_tries_a_step_that_raised_again_as_if_it_had_not_been(wrap, moves):
    own, down = parts("user")
    env, twin = (wrap(gym.make("RLPA-v0", on_error="raise", **some)) for some in (own, parts("user")[0]))
    env.reset(seed=2)
    twin.reset(seed=2)
    listed = []
    for n, move in enumerate(moves):
        down.error, down.at = ModelError("down"), 0
        if moves is ACTS or n in (2, 4):  # the last of three tokens, and one that ends an action early
            with pytest.raises(ModelError):
                env.step(move)
        down.error = None
        ours, theirs = env.step(move), twin.step(move)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
        assert env.unwrapped.last_action == twin.unwrapped.last_action
        listed.append(len(env.unwrapped.last_action.profile))
    assert moves is TOKENS or listed[-3] - listed[-1] == 2  # points were there to drop


def test_where_no_model_is_asked_a_step_that_raises_otherwise_ends_the_episode():
    judge = Judge()
    judge.error = KeyboardInterrupt()
    env = gym.make("RLPA-v0", judge=judge)
    env.reset(seed=0)
    with pytest.raises(KeyboardInterrupt):
        env.step(SAID[0])
    with pytest.raises(gym.error.ResetNeeded):
        env.step(SAID[0])
    env.reset(seed=0)
    assert env.step(SAID[0])[4]["turn"] == 1


def test_a_user_that_cannot_be_taken_back_ends_the_episode():
    class Forgetful:
        patience = 3

        def __init__(self):
            self.own = rlpa_env.ScriptedUser()
            self.reset, self.reply = self.own.reset, self.own.reply

        profile = property(lambda self: self.own.profile)
        revealed = property(lambda self: self.own.revealed)

    judge = Judge()
    env = rlpa_env.RLPAEnv(user=Forgetful(), judge=judge, on_error="raise")
    env.reset(seed=0)
    assert env.step(SAID[0])[4]["turn"] == 1
    judge.error, judge.at = ModelError("down"), 0
    with pytest.raises(ModelError):
        env.step(SAID[1])
    with pytest.raises(gym.error.ResetNeeded):
        env.step(SAID[1])


@pytest.mark.parametrize("kind", ["judge", "waiting judge", "waiting user"])  # a user of one's own is copied
@pytest.mark.parametrize("error", [ModelError("down"), KeyboardInterrupt()])
def test_one_that_fails_of_many_leaves_all_of_them_in_step(kind, error):
    own, down = parts(kind)
    ours, theirs = (RLPAVectorEnv(3, on_error="raise", max_episode_steps=2, **some) for some in (own, parts(kind)[0]))
    assert ours.reset(seed=5)[0] == theirs.reset(seed=5)[0]
    for said in (*SAID, SAID[0]):  # a reset of all in the middle
        before = [env.unwrapped.dialogue for env in ours.envs]
        if not ours._autoreset_envs.all():
            down.error, down.at = error, 1  # the second of three
            with pytest.raises(type(error)):
                ours.step([said] * 3)
        assert [env.unwrapped.dialogue for env in ours.envs] == before
        left, right = ours.step([said] * 3), theirs.step([said] * 3)
        assert left[0] == right[0]
        assert all(np.array_equal(mine, other) for mine, other in zip(left[1:4], right[1:4], strict=True))
        assert left[4]["turn"].tolist() == right[4]["turn"].tolist()
