"""The three places where a run is open: environments, generators and learners that know nothing of this package."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future

import gymnasium as gym
import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import Script
from toy import ToyEnv, char_policy, toy_config

import rlpa_env
from rlpa_agent.checkpoint import checkpointed_policy, read_state
from rlpa_agent.estimates import Estimates, UpdateStats
from rlpa_agent.policy import Policy
from rlpa_agent.pool import GymPool
from rlpa_agent.progress import health, rollout_figures
from rlpa_agent.protocols import BranchingPool, EnvPool, Opening, Sampled, Step
from rlpa_agent.rollout import RolloutCounts, collect
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env.errors import ConfigError
from rlpa_env.flows import finished
from rlpa_env.vector import step_all

torch.set_num_threads(1)


class Letters(gym.Env):
    """A plain Gymnasium environment: it names a letter, and pays for saying the other one of two."""

    observation_space = action_space = gym.spaces.Text(10)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.said = 0
        return self._name(), {}

    def step(self, action):
        reward = float(action[:1] == {"a": "b", "b": "a"}[self.letter])
        self.said += 1
        # An info that only some turns have: figures must not count on it.
        unknown = {"stop_reason": None, "profile/partial": None}
        return self._name(), reward, False, self.said == 2, unknown | ({"luck": 0.5} if self.said == 1 else {})

    def _name(self):
        self.letter = "ab"[self.np_random.integers(2)]
        return self.letter


def test_a_plain_gymnasium_environment_is_learned_through_the_trainer(tmp_path):
    config = toy_config(tmp_path, 2, optim={"policy_lr": 2e-3}, rollout={"dialogues": 128, "concurrent": 128})
    trainer = Trainer(config, char_policy("ab"), lambda: gym.wrappers.PassiveEnvChecker(Letters()), quiet=True)
    first = trainer.one_iteration()
    for _ in range(11):
        last = trainer.one_iteration()
    assert first["return"] < 1.5
    assert last["return"] > 1.8
    assert not [key for key in last if key.startswith(("profile/", "reward/", "judge/")) or key in ("malformed", "most_common_reply")]
    assert "malformed" not in health(last)
    assert (last["terminated"], last["by_turn/terminated"]) == (0.0, [0.0, 0.0])
    won = rollout_figures([Trajectory((Turn(np.zeros(1), np.zeros(1), np.zeros(1), 1.0),), np.zeros(1), True, False)], max_turns=2)
    assert (won["terminated"], won["by_turn/terminated"], health(won)) == (1.0, [1.0, 0.0], "ok")
    assert not {"left_early", "by_turn/left_early"} & (set(last) | set(won))
    (trajectory,) = collect(trainer.policy, [Letters()], seeds=[3], max_new_tokens=1, max_turns=2)
    roles, texts = zip(*trajectory.messages)
    assert roles == ("user", "assistant", "user", "assistant", "user")
    env = Letters()
    assert [texts[0], texts[2], texts[4]] == [env.reset(seed=3)[0], env.step("x")[0], env.step("x")[0]]
    chat = trainer.policy.chat
    spoken = chat.opening([("user", texts[0])]).tolist() + list(trajectory.turns[0].action_ids)
    assert trajectory.turns[1].context_ids.tolist() == [*spoken, *chat.follow(trajectory.turns[0].action_ids, texts[2])]
    assert [dict(turn.parts) for turn in trajectory.turns] == [{"luck": 0.5}, {}]
    assert (trajectory.episode, trajectory.stop_reason) == ("Letters#3", "")
    assert [turn.partial for turn in trajectory.turns] == [(), ()]


def test_an_environment_without_words_is_refused():
    class Numbers(Letters):
        def _name(self):
            self.letter = "a"
            return np.zeros(3)

    with pytest.raises(ConfigError, match=r'Numbers: expected a text as observation, or info\["messages"\]; got ndarray'):
        collect(char_policy("ab"), [Numbers()], seeds=[0], max_new_tokens=1)


class OwnPool:
    """Slots without environments behind them: a reply is paid its length, four turns."""

    def __init__(self, slots):
        self.messages = [()] * slots

    def __len__(self):
        return len(self.messages)

    def reset(self, slot, seed, options=None):
        self.messages[slot] = (("user", f"Hello {seed % 3}"),)
        return Opening(self.messages[slot], f"own#{seed}")

    def begin(self, slot, text):
        self.messages[slot] += (("assistant", text), ("user", "Well."))
        return finished(Step(self.messages[slot], float(len(text)), False, len(self.messages[slot]) == 9))


class LatePool(OwnPool):
    """The first slot answers when the second's dialogue is over, or never: one after the other they would stand still."""

    def __init__(self, slots):
        super().__init__(slots)
        self.held = []

    def begin(self, slot, text):
        known = super().begin(slot, text)
        if slot == 0 and not self.over:
            late = Future()
            patience = threading.Timer(10.0, late.set_exception, [AssertionError("the rollout stands still")])
            patience.daemon = True
            patience.start()
            self.held.append((late, known.result(), patience))
            return late
        if slot == 1 and known.result().truncated:
            self.over = True
            for late, step, patience in self.held:
                patience.cancel()
                threading.Timer(0.3, late.set_result, [step]).start()
        return known

    def reset(self, slot, seed, options=None):
        self.over = self.over if slot == 0 else False
        return super().reset(slot, seed, options)

    over = False


class OwnEnv:
    """The same, as one environment."""

    def reset(self, *, seed=None, options=None):
        self.turns = 0
        return f"Hello {seed % 3}", {}

    def step(self, text):
        self.turns += 1
        return "Well.", len(text), False, self.turns == 4, {}


@pytest.mark.parametrize("pool", [OwnPool, LatePool])
@pytest.mark.parametrize("slots", [2, 3])
def test_a_pool_of_ones_own_plays_the_same_dialogues_however_late_it_answers(pool, slots):
    policy = tiny_models.policy(sharpness=2.0)
    settings = {"seeds": range(slots), "max_new_tokens": 6, "max_turns": 6}
    counts = RolloutCounts()
    own = collect(policy, pool(slots), counts=counts, **settings)
    single = collect(policy, [OwnEnv() for _ in range(slots)], **settings)
    for a, b in zip(own, single, strict=True):
        assert a.final_context_ids.tolist() == b.final_context_ids.tolist()
        assert [turn.reward for turn in a.turns] == [turn.reward for turn in b.turns]
        assert (a.messages, a.truncated, a.terminated) == (b.messages, b.truncated, b.terminated)
    assert [trajectory.episode for trajectory in own] == [f"own#{i}" for i in range(slots)]
    assert counts.action_tokens == sum(len(turn.action_ids) for trajectory in own for turn in trajectory.turns)
    assert (counts.environment_seconds > 0.15) == (pool is LatePool)  # nothing left to decode while the timer ran
    assert (counts.awaited_seconds > 0.15) == (pool is LatePool) == (counts.awaited_seconds > 0)


def test_a_sampler_elsewhere_goes_on_while_an_answer_is_awaited():
    policy, token = tiny_models.policy(), 5
    settings = {"seeds": range(3), "max_new_tokens": 6, "max_turns": 6}
    counts = [RolloutCounts(), RolloutCounts()]
    late = collect(policy, LatePool(3), generator=Elsewhere(token), counts=counts[0], **settings)
    soon = collect(policy, OwnPool(3), generator=Elsewhere(token), counts=counts[1], **settings)
    assert [c.environment_seconds > 0.15 for c in counts] == [c.awaited_seconds > 0.15 for c in counts] == [True, False]
    assert [trajectory.messages for trajectory in late] == [trajectory.messages for trajectory in soon]
    assert [trajectory.episode for trajectory in late] == ["own#0", "own#1", "own#2"]


def test_what_an_awaited_answer_ends_with_is_raised():
    class Broken(OwnPool):
        def begin(self, slot, text):
            known = super().begin(slot, text)
            if slot == 0:
                self.late = Future()
                return self.late
            if known.result().truncated:
                self.late.set_exception(OSError("the other machine is gone"))
            return known

    with pytest.raises(OSError, match="the other machine is gone"):
        collect(tiny_models.policy(), Broken(2), seeds=range(2), max_new_tokens=6, max_turns=6)


def test_several_samples_need_a_pool_that_branches():
    assert isinstance(GymPool([]), BranchingPool)
    assert isinstance(OwnPool(1), EnvPool)
    assert not isinstance(OwnPool(1), BranchingPool)
    assert not isinstance([Script(("u",))], EnvPool)
    with pytest.raises(ConfigError, match="samples: expected 1 of a OwnPool"):
        collect(tiny_models.policy(), OwnPool(1), seeds=[0], samples=2)
    with pytest.raises(ConfigError, match="fork: expected an RLPAEnv"):
        collect(tiny_models.policy(), [Script(("u",))], seeds=[0], samples=2, max_new_tokens=2)


class Counter:
    """A learner that nudges one weight by what was earned, and counts."""

    def __init__(self, policy):
        self.weight, self.seen, self.done = next(iter(policy.parameters_value())), 0, []
        self.optimizers = {"own": torch.optim.SGD([self.weight], lr=0.1, momentum=0.5)}

    def update(self, batch, iteration, done):
        self.done.append(done)
        self.seen += batch.tokens
        self.weight.grad = torch.full_like(self.weight, float(batch.reward_A.mean()))
        self.optimizers["own"].step()
        logp = batch.logp_old_A
        return Estimates(logp, logp, None, batch.reward_A, batch.reward_A, batch.reward_A, None), UpdateStats(steps=1)

    def state(self):
        return {"seen": self.seen, "iteration": -1}  # a name that the trainer uses itself

    def load_state(self, state):
        self.seen = state["seen"]


def test_a_learner_of_ones_own_is_saved_and_resumed(tmp_path):
    def trainer_of(folder, policy, iterations):
        config = toy_config(tmp_path / folder, 2, iterations=iterations, rollout={"dialogues": 4})
        return Trainer(config, policy, lambda: Script(("u",), turns=2), quiet=True, learner=Counter(policy))

    whole = trainer_of("whole", tiny_models.policy(), 3)
    whole.run()
    trainer_of("parts", tiny_models.policy(), 2).run()
    assert read_state(tmp_path / "parts" / "run" / "last")["iteration"] == 2
    second = trainer_of("parts", Policy.load(checkpointed_policy(tmp_path / "parts" / "run")), 3)
    second.resume()
    assert (second.iteration, second.learner.seen) == (2, 16)
    second.run()
    assert second.learner.seen == whole.learner.seen == 24
    assert whole.learner.done == [0.0, 1 / 3, 2 / 3]
    assert second.learner.done == [2 / 3]
    assert torch.equal(second.learner.weight, whole.learner.weight)
    line = json.loads((whole.config.out / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["optimizer_steps"] == 1
    assert "explained_variance" not in line


class Elsewhere:
    """Samples always the same id and says that it was certain, which the trainer is not."""

    def __init__(self, token):
        self.token, self.versions = token, 0

    def begin(self, context_ids, key, max_new_tokens, temperature):
        future: Future = Future()
        future.set_result(Sampled([self.token] * max_new_tokens, [0.0] * max_new_tokens, str(self.versions)))
        return future

    def update(self, policy):
        self.versions += 1
        return str(self.versions)


def test_tokens_of_any_generator_that_is_given_are_weighed(tmp_path):
    policy = char_policy("ab")
    generator = Elsewhere(policy.tokenizer.convert_tokens_to_ids("a"))
    config = toy_config(tmp_path, 2, rollout={"dialogues": 4, "concurrent": 4})
    trainer = Trainer(config, policy, lambda: ToyEnv(lambda kind, said: (1.0, "u"), 2), quiet=True, generator=generator)
    found = []
    update = trainer.learner.update

    def kept(batch, iteration, done):
        found.append(update(batch, iteration, done))
        return found[-1]

    trainer.learner.update = kept
    figures = trainer.one_iteration()
    assert generator.versions == 1
    assert figures["served"]
    weights, logp = found[0][0].weights_A, found[0][0].logp_old_A
    assert torch.allclose(weights, logp.exp().clamp(max=config.ppo.importance_cap))
    assert float(weights.max()) < 1.0
    assert trainer.config is config


class Crowd(rlpa_env.ChatClient):
    """A client that answers only when ``size`` calls are in flight together, or after two seconds; no server is asked."""

    def __init__(self, size):
        super().__init__(base_url="http://127.0.0.1:9/v1", model="m")
        self.size, self.waiting, self.most = size, [], 0

    def begin(self, messages, **options):
        asked, future = json.loads(messages[1]["content"]), Future()
        verdict = {name: {"reason": "why", "pass": True} for name in rlpa_env.CRITERIA}
        self.waiting.append((future, asked["say"] if "say" in asked else json.dumps(verdict)))
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) >= self.size:
            self.answer()
        else:
            threading.Timer(2.0, self.answer).start()
        return future

    def answer(self):
        while self.waiting:
            future, text = self.waiting.pop()
            future.set_result(text)


@pytest.mark.parametrize("wrap", [lambda env: env, rlpa_env.LastMessage])
def test_the_model_calls_of_all_slots_are_in_flight_together(wrap):
    said = [rlpa_env.format_action([], f"I made tea {n} times. What do you do for work?") for n in range(6)]
    crowd = Crowd(size=12)

    def env(**parts):
        return wrap(gym.make("RLPA-v0", **parts))

    waiting = [env(user=rlpa_env.LLMUser(crowd), judge=rlpa_env.LLMJudge(crowd)) for _ in range(6)]
    pool = GymPool([waiting[0], OwnEnv(), *waiting[1:]])  # one that waits for nothing among them
    for slot in range(7):
        pool.reset(slot, seed=3)
    said = [*said[:3], "Hi", *said[3:]]
    futures = [pool.begin(slot, text) for slot, text in zip([6, 5, 4, 1, 3, 2, 0], said)]
    assert futures[3].done()
    steps = [future.result(20) for future in futures]
    assert crowd.most == 12  # a user and a judge for each of six
    assert steps[3].reward == 2.0
    assert [step.messages[-2][1] for step in steps] == said
    alone = GymPool([env(user=rlpa_env.LLMUser(Crowd(1)), judge=rlpa_env.LLMJudge(Crowd(1)))])
    alone.reset(0, seed=3)
    assert alone.begin(0, said[0]).result(20) == steps[0]


def test_answers_that_are_tried_in_copies_wait_together_too():
    crowd, said = Crowd(size=4), rlpa_env.format_action([], "I made tea. What do you do for work?")
    pool = GymPool([gym.make("RLPA-v0", user=rlpa_env.LLMUser(crowd), judge=rlpa_env.LLMJudge(crowd)) for _ in range(2)])
    for slot in range(2):
        pool.reset(slot, seed=3)
    (step, copy), (other, _) = [future.result(20) for future in [pool.attempt(slot, said) for slot in range(2)]]
    assert crowd.most == 4
    assert step == other
    assert len(pool.envs[0].unwrapped.dialogue) == 1
    pool.settle(0, copy)
    assert len(pool.envs[0].unwrapped.dialogue) == 3
    assert pool.begin(0, said).result(20).messages[:3] == (*step.messages[:3],)


def test_a_slot_begins_anew_when_what_it_waits_for_has_come():
    crowd = Crowd(size=99)
    env = gym.make("RLPA-v0", user=rlpa_env.LLMUser(crowd))
    pool = GymPool([env])
    pool.reset(0, seed=3)
    answer = pool.begin(0, rlpa_env.format_action([], "I made tea. What do you do for work?"))
    assert not answer.done()
    opening = pool.reset(0, seed=3)  # the rollout was broken off
    assert answer.done()
    assert opening.messages == pool.reset(0, seed=3).messages
    assert len(env.unwrapped.dialogue) == 1


def test_an_environment_that_hears_another_text_than_it_is_given_makes_its_calls_alone():
    louder = gym.wrappers.TransformAction(
        gym.make("RLPA-v0", user=rlpa_env.LLMUser(Crowd(1))), lambda text: text + " Really.", None
    )
    pool = GymPool([louder])
    pool.reset(0, seed=3)
    step = pool.begin(0, rlpa_env.format_action([], "Hi there.")).result(0)
    assert step.info["reward/valid"]
    assert "Really." in louder.unwrapped.dialogue[1].content
    _, _, _, _, info = step_all([louder], [rlpa_env.format_action([], "How are you?")])[0]
    assert info["turn"] == 2  # nothing was begun with the other text
