"""Estimators without a critic: numbers by hand, naive loops, and the bandit that pays a turn later."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import Script
from toy import ToyEnv, char_policy, toy_config

from rlpa_agent.advantages import estimate_advantages, group_advantages
from rlpa_agent.batch import make_batch
from rlpa_agent.checkpoint import checkpointed_policy
from rlpa_agent.config import ALGOS, PRESETS
from rlpa_agent.learner import Learner
from rlpa_agent.policy import Policy
from rlpa_agent.ppo import kl_loss
from rlpa_agent.rollout import collect
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError

ONE = dict.fromkeys(("gamma_token", "gamma_turn", "lam_token", "lam_turn"), 1.0)


def two_dialogues():
    """r = (1, 0) and (0, 0); two tokens, then one token a turn; through batch.py."""
    made = []
    for rewards in ((1.0, 0.0), (0.0, 0.0)):
        first = Turn(np.arange(3), np.array([10, 11]), np.zeros(2, np.float32), rewards[0])
        second = Turn(np.array([0, 1, 2, 10, 11, 7]), np.array([12]), np.zeros(1, np.float32), rewards[1])
        made.append(Trajectory((first, second), np.arange(8), terminated=True, truncated=False))
    return make_batch(made, max_turns=2, group=2)


def by_group(algo, batch, **options):
    return group_advantages(algo, batch.reward_A, batch.segment_A, batch.starts_C, batch.group_C, **options)[0].tolist()


def test_T24_grpo_and_rloo_on_two_siblings():
    batch = two_dialogues()
    assert by_group("grpo", batch) == pytest.approx([1, 1, 1, -1, -1, -1], abs=1e-5)
    assert by_group("rloo", batch) == [1, 1, 0, -1, -1, 0]
    assert by_group("grpo", batch, baseline="turn") == pytest.approx([1, 1, 0, -1, -1, 0], abs=1e-5)


def naive(algo, rewards, group, i, k):
    """The definition for turn k of dialogue i; rewards[i][j] are those of its turns."""
    returns = [sum(row[k:]) for row in rewards]  # a dialogue that ended has an empty sum: 0
    siblings = [j for j in range(len(rewards)) if group[j] == group[i]]
    if algo == "rloo":
        others = [returns[j] for j in siblings if j != i]
        return returns[i] - sum(others) / len(others) if others else 0.0
    same = [returns[j] for j in siblings]
    mean = sum(same) / len(same)
    return (returns[i] - mean) / (np.sqrt(sum((x - mean) ** 2 for x in same) / len(same)) + 1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_group_advantages_equal_the_definition(seed):
    rng = np.random.default_rng(seed)
    chains = int(rng.integers(2, 9))
    group = rng.integers(0, 3, size=chains)  # unequal groups, singles too, in any order
    rewards = [rng.normal(size=rng.integers(1, 5)).tolist() for _ in range(chains)]
    lengths = [rng.integers(1, 4, size=len(row)) for row in rewards]
    flat, turns, starts, owner = [], [], [], []
    for i, (row, sizes) in enumerate(zip(rewards, lengths, strict=True)):
        starts.append(len(flat))
        for k, (reward, size) in enumerate(zip(row, sizes, strict=True)):
            flat += [0.0] * (size - 1) + [reward]
            turns += [k] * size
            owner += [i] * size
    arrays = (torch.tensor(flat, dtype=torch.float64), torch.tensor(turns), torch.tensor(starts), torch.tensor(group))
    for algo, baseline in (("rloo", "episode"), ("grpo", "episode"), ("grpo", "turn")):
        mine, returns = group_advantages(algo, *arrays, baseline=baseline)
        places = [0] * len(turns) if algo == "grpo" and baseline == "episode" else turns
        expected = [naive(algo, rewards, group, i, k) for i, k in zip(owner, places, strict=True)]
        assert mine.tolist() == pytest.approx(expected, abs=1e-10)
        assert returns.tolist() == pytest.approx([sum(rewards[i][k:]) for i, k in zip(owner, turns, strict=True)])


def test_reinforce_takes_token_returns_with_the_kl_in_them():
    """ρ = −.1 each and r = 1, 2 at the ends of two turns of two tokens: sums from each token on."""
    rewards = torch.tensor([-0.1, 0.9, -0.1, 1.9])
    arrays = (rewards, torch.tensor([0, 0, 1, 1]), torch.tensor([0]))
    common = {"values_A": None, "bootstrap_C": None, "group_C": torch.tensor([0]), "baseline": "episode"}
    advantages, returns = estimate_advantages("reinforce", *arrays, **common, **(ONE | {"lam_token": 0.3, "lam_turn": 0.2}))
    assert advantages.tolist() == pytest.approx([2.6, 2.7, 1.8, 1.9])
    assert torch.equal(advantages, returns)
    within, _ = estimate_advantages("reinforce", *arrays, **common, **(ONE | {"gamma_turn": 0.0}))
    assert within.tolist() == pytest.approx([0.8, 0.9, 1.8, 1.9])


def test_a_reply_is_not_credited_with_a_profile_that_was_paid_before_it(tmp_path):
    """profile_paid="block": two blocks of a turn are compared apart; a sibling without a block counts whole."""
    split = Turn(np.arange(3), np.array([10, 11]), np.zeros(2, np.float32), 1.5)
    whole = Turn(np.arange(3), np.array([12]), np.zeros(1, np.float32), 0.5)
    made = [Trajectory((turn,), np.arange(6), True, False) for turn in (split, whole)]
    batch = make_batch(made, max_turns=1, group=2, payments=lambda turn: [(1, 1.0), (2, 0.5)] if turn is split else [(0, 0.0), (1, 0.5)])
    # returns from the profile on 1.5 against 0.5, from the reply on 0.5 against 0.5
    assert by_group("rloo", batch) == [1.0, 0.0, 0.0]
    learner = Learner(tiny_models.policy(), toy_config(tmp_path, 1, algo="rloo", rollout={"dialogues": 2, "group": 2}))
    assert learner.estimate(batch, 0).raw_A.tolist() == [1.0, 0.0, 0.0]


def test_siblings_share_person_and_seed_and_are_sampled_apart(tmp_path):
    config = toy_config(tmp_path, 2, algo="rloo", rollout={"dialogues": 8, "concurrent": 3, "group": 4, "max_new_tokens": 8})
    trainer = Trainer(config, tiny_models.policy(), lambda: Script(("u",), turns=2), quiet=True)
    assert trainer._people() == [seed for seed in trainer._people()[::4] for _ in range(4)]
    trajectories, _ = trainer.gather()
    assert len({t.episode for t in trajectories}) == 2
    assert len({tuple(t.turns[0].action_ids) for t in trajectories}) == 8
    batch = make_batch(trajectories, max_turns=2, group=config.group)
    assert batch.group_C.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("algo", ["grpo", "rloo", "reinforce"])
def test_no_critic_is_scored_or_trained(tmp_path, algo, monkeypatch):
    policy = tiny_models.policy(sharpness=2.0)
    envs = [Script(("u",), turns=2, pay=lambda text, turn: float(len(text) % 3)) for _ in range(4)]
    batch = make_batch(collect(policy, envs, seeds=range(8), max_new_tokens=8, max_turns=2), max_turns=2, group=4)
    ppo = {"critic_warmup": 3, "critic_steps": 5, "beta": 0.01}
    learner = Learner(policy, toy_config(tmp_path, 2, algo=algo, ppo=ppo, rollout={"dialogues": 8}))
    head = [p.detach().clone() for p in policy.parameters_value()]
    trunk = [p.detach().clone() for p in policy.parameters_policy()]
    monkeypatch.setattr(policy, "value_of", lambda *_: pytest.fail("a value was scored"))
    estimates, stats = learner.update(batch, 0)
    assert stats.steps > 0
    assert "explained_variance" not in stats.figures
    assert estimates.values_A is None
    assert all(torch.equal(a, b) for a, b in zip(head, policy.parameters_value(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(trunk, policy.parameters_policy(), strict=True))
    assert abs(float(estimates.advantages_A.mean())) < 1e-5 or algo != "reinforce"  # whitened globally


def test_grpo_has_k3_in_the_loss_and_none_in_the_reward(tmp_path):
    policy = tiny_models.policy(sharpness=2.0)
    envs = [Script(("u",), turns=2, pay=lambda text, turn: float(len(text) % 3)) for _ in range(4)]
    batch = make_batch(collect(policy, envs, seeds=range(8), max_new_tokens=8, max_turns=2), max_turns=2, group=4)
    with torch.no_grad():  # the policy has left its reference
        policy.lm.model.norm.weight.mul_(0.8)
    losses = {}
    for beta in (0.0, 0.5):
        learner = Learner(policy, toy_config(tmp_path, 2, algo="grpo", ppo={"beta": beta}, rollout={"dialogues": 8}))
        estimates = learner.estimate(batch, 0)
        assert torch.equal(estimates.raw_A, estimates.advantages_A)
        micro = learner._micro(batch, list(range(len(batch.rows))))[0]
        losses[beta] = float(learner.loss(batch, micro, estimates, batch.tokens)[0].detach())
    old, ref = estimates.logp_old_A, estimates.logp_ref_A
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * float(kl_loss(old, ref, old, "k3")) / batch.tokens, rel=1e-3)
    assert losses[0.5] - losses[0.0] > 1e-3


def late(kind, said):
    """The first action pays in the second turn: 'a' is right for people who open with g, 'b' for h. Chance is ½."""
    return (float(said[0] == "ab"[kind]) if len(said) == 2 else 0.0), "u"


@pytest.mark.parametrize(("algo", "ppo"), [("ppo", {}), ("grpo", {}), ("grpo", {"baseline": "turn"}), ("rloo", {}), ("reinforce", {})])
def test_T20_each_estimator_learns_what_pays_a_turn_later(tmp_path, algo, ppo):
    config = toy_config(tmp_path, 2, algo=algo, ppo={"epochs": 2, "minibatches": 2} | ppo, rollout={"group": 4})
    policy = char_policy("ab")
    trainer = Trainer(config, policy, lambda: ToyEnv(late, 2, openings="gh"), quiet=True)
    ids = policy.tokenizer.convert_tokens_to_ids(["a", "b"])

    def right():
        chances = []
        for kind, opening in enumerate("gh"):
            with torch.no_grad():
                logits = policy.lm(input_ids=torch.tensor(policy.chat.opening([("user", opening)]))[None]).logits[0, -1]
            chances.append(float(torch.softmax(logits[ids], -1)[kind]))
        return np.mean(chances)

    assert right() < 0.7
    for _ in range(40):
        trainer.one_iteration()
        if right() > 0.95:
            break
    assert right() > 0.9


def test_a_run_without_critic_resumes_bit_for_bit(tmp_path):
    def trainer(folder, iterations, policy=None):
        rollout = {"dialogues": 8, "concurrent": 4, "max_new_tokens": 8}
        config = toy_config(tmp_path / folder, 2, algo="grpo", iterations=iterations, rollout=rollout)
        pays = lambda text, turn: float(len(text) % 3)  # noqa: E731
        return Trainer(config, policy or tiny_models.policy(), lambda: Script(("u",), turns=2, pay=pays), quiet=True)

    whole, first = trainer("whole", 3), trainer("parts", 1)
    whole.run()
    first.run()
    policy = Policy.load(checkpointed_policy(first.config.out))
    second = trainer("parts", 3, policy)
    second.resume()
    second.run()
    for a, b in zip(whole.policy.parameters_policy(), second.policy.parameters_policy(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"algo": "rloo", "rollout": {"group": 1}}, r"rollout\.group: expected at least 2"),
        ({"algo": "grpo", "rollout": {"dialogues": 6, "group": 4}}, r"rollout\.group: expected a divisor of the 6"),
        ({"algo": "grpo", "rollout": {"dialogues": 6}}, r"rollout\.group: expected at least 2 and a divisor of the 6"),
        ({"algo": "grpo", "ppo": {"kl_in": "reward"}}, r"ppo\.kl_in: expected 'loss' or 'auto' with algo='grpo'"),
        ({"ppo": {"baseline": "mean"}}, "episode"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(tmp_path, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        toy_config(tmp_path, 2, **changes)


def test_where_the_kl_goes_and_how_large_a_group_is_follow_from_the_estimator(tmp_path):
    configs = [toy_config(tmp_path, 2, algo=algo) for algo in ALGOS]
    assert [config.kl_in for config in configs] == ["reward", "loss", "loss", "reward"]
    assert [config.group for config in configs] == [1, 4, 4, 1]
    for config in (configs[0], configs[3]):
        assert dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, kl_in="loss")).kl_in == "loss"


@pytest.mark.parametrize("algo", ALGOS)
def test_the_tiny_preset_goes_with_every_estimator_and_mode(algo):
    preset = dataclasses.replace(PRESETS["tiny"], algo=algo)
    assert preset.profile_paid == ("block" if algo in ("grpo", "rloo") else "line")
    official = dataclasses.replace(preset, mode="official", rollout=dataclasses.replace(preset.rollout, samples=2))
    assert official.profile_paid == "turn"
