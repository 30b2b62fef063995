"""Advantages against brute force, numbers worked out by hand, and stable-baselines3."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlpa_agent.advantages import chain_gae, explained_variance, gae, token_rewards, whiten
from rlpa_agent.batch import make_batch
from rlpa_agent.trajectory import Trajectory, Turn

F64 = torch.float64


def brute_force(rewards, values, turns, g_tok, g_turn, l_tok, l_turn, bootstrap):
    """sum over l of the product of (gamma lambda) from t, times delta at t + l: O(T^2), written from the definition."""
    size = len(rewards)
    out = []
    for t in range(size):
        total, factor = 0.0, 1.0
        for s in range(t, size):
            last = s + 1 == size or turns[s + 1] != turns[s]
            g, lam = (g_turn, l_turn) if last else (g_tok, l_tok)
            after = values[s + 1] if s + 1 < size else bootstrap
            total += factor * (rewards[s] + g * after - values[s])
            factor *= g * lam
        out.append(total)
    return out


def test_T1_gae_equals_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(200):
        turns = np.repeat(np.arange(rng.integers(1, 6)), rng.integers(1, 7))
        rewards, values = rng.normal(size=(2, len(turns)))
        g_tok, g_turn, l_tok, l_turn = rng.random(4)
        boot = float(rng.normal())
        advantages, returns = gae(
            torch.tensor(rewards),
            torch.tensor(values),
            torch.tensor(turns),
            gamma_token=g_tok,
            gamma_turn=g_turn,
            lam_token=l_tok,
            lam_turn=l_turn,
            bootstrap=boot,
        )
        expected = brute_force(rewards, values, turns, g_tok, g_turn, l_tok, l_turn, boot)
        assert advantages.dtype == F64
        assert float((advantages - torch.tensor(expected)).abs().max()) < 1e-10
        assert float((returns - advantages - torch.tensor(values)).abs().max()) < 1e-12


def fixture_f(user_tokens: int, row_per_turn: bool):
    """Mask 1 1 0 0 0 0 1 1 with V .5 .4 … .6 .7 and r = 1 at the end of both turns, through batch.py."""
    opening = np.arange(3)
    first = Turn(opening, np.array([10, 11]), np.zeros(2, np.float32), 1.0)
    context = np.concatenate([opening, [10, 11], np.full(user_tokens, 7)])
    second = Turn(context, np.array([12, 13]), np.zeros(2, np.float32), 1.0)
    final = np.concatenate([context, [12, 13, 7]])
    batch = make_batch(
        [Trajectory((first, second), final, terminated=True, truncated=False)], max_turns=10, row_per_turn=row_per_turn
    )
    values_RL = [np.full(len(row), 9.0) for row in batch.rows]  # every other position holds a value too: 9 or -9
    for row in values_RL:
        row[::2] = -9.0
    for i, value in enumerate((0.5, 0.4, 0.6, 0.7)):
        values_RL[int(batch.row_A[i])][int(batch.pos_A[i])] = value
    values = torch.tensor([values_RL[r][p] for r, p in zip(batch.row_A.tolist(), batch.pos_A.tolist(), strict=True)])
    return batch, values


@pytest.mark.parametrize("row_per_turn", [False, True])
@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [
        (1.0, 0.95, (1.3874625, 1.56575, 0.385, 0.3)),
        (0.99, 0.95, (1.350792, 1.546829, 0.37515, 0.3)),
        (1.0, 1.0, (1.5, 1.6, 0.4, 0.3)),
    ],
)
def test_T2_fixture_through_batch(row_per_turn, gamma, lam, expected):
    batch, values = fixture_f(4, row_per_turn)
    assert len(batch.rows) == (2 if row_per_turn else 1)
    discounts = {"gamma_token": gamma, "gamma_turn": gamma, "lam_token": lam, "lam_turn": lam}
    advantages, _ = chain_gae(batch.reward_A.double(), values, batch.turn_A, batch.starts_C, torch.zeros(1), **discounts)
    assert advantages.tolist() == pytest.approx(expected, abs=1e-6)


def test_T3_user_tokens_change_nothing():
    results = []
    for user_tokens in (0, 1, 50):
        batch, values = fixture_f(user_tokens, False)
        discounts = {"gamma_token": 0.97, "gamma_turn": 0.9, "lam_token": 0.95, "lam_turn": 0.8}
        results.append(chain_gae(batch.reward_A.double(), values, batch.turn_A, batch.starts_C, torch.zeros(1), **discounts)[0])
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def turn(context, ids, reward, valid=True):
    return Turn(np.asarray(context), np.asarray(ids), np.zeros(len(ids), np.float32), reward, valid=valid)


def t4(gamma_turn, *, bootstrap=0.0, extra=None):
    first, second = turn([0], [1, 2], 1.0), turn([0, 1, 2, 3], [4, 5], 2.0)
    turns = (first, second) if extra is None else (first, second, extra)
    ended = extra is None
    batch = make_batch([Trajectory(turns, np.arange(9), terminated=ended, truncated=not ended)], max_turns=10)
    assert bool(batch.bootstrapped_C[0]) is not ended
    advantages, _ = chain_gae(
        batch.reward_A,
        torch.zeros(batch.tokens),
        batch.turn_A,
        batch.starts_C,
        torch.tensor([bootstrap]),
        gamma_token=1.0,
        gamma_turn=gamma_turn,
        lam_token=1.0,
        lam_turn=1.0,
    )
    return advantages.tolist()


def test_T4_discount_between_turns_bootstrap_and_an_invalid_turn():
    assert t4(0.9) == pytest.approx([2.8, 2.8, 2, 2])
    assert t4(0.0) == pytest.approx([1, 1, 2, 2])
    for ids in ([6], [6, 7, 8]):  # what an invalid turn said does not matter, nor what it is paid
        cut = t4(0.9, bootstrap=0.5, extra=turn([0, 1, 2, 3, 4, 5, 9], ids, 77.0, valid=False))
        assert cut == pytest.approx([3.205, 3.205, 2.45, 2.45])


def test_T4_an_invalid_first_turn_drops_the_episode():
    bad = Trajectory((turn([0], [1], 5.0, valid=False),), np.arange(2), terminated=False, truncated=True)
    good = Trajectory((turn([0], [1], 1.0),), np.arange(2), terminated=True, truncated=False)
    batch = make_batch([bad, good], max_turns=10)
    assert batch.episode_C == (1,)
    with pytest.raises(ValueError, match="at least one valid turn"):
        make_batch([bad], max_turns=10)


def test_T5_constant_values_within_turns_give_turn_level_gae():
    rng = np.random.default_rng(1)
    lengths, values_K, rewards_K = [3, 1, 4], rng.normal(size=3), rng.normal(size=3)
    turns = np.repeat(np.arange(3), lengths)
    rewards = np.zeros(len(turns))
    rewards[np.cumsum(lengths) - 1] = rewards_K
    advantages, _ = gae(
        torch.tensor(rewards),
        torch.tensor(values_K[turns]),
        torch.tensor(turns),
        gamma_token=1.0,
        gamma_turn=0.9,
        lam_token=1.0,
        lam_turn=0.8,
    )
    expected = brute_force(rewards_K, values_K, [0, 1, 2], 0.5, 0.9, 0.5, 0.8, 0.0)
    assert advantages.tolist() == pytest.approx([expected[k] for k in turns])


def test_T6_whitening_ignores_what_is_masked():
    out = whiten(torch.tensor([1.0, 2.0, 3.0, 99.0]), torch.tensor([True, True, True, False]))
    assert out.tolist() == pytest.approx([-1.2247449, 0, 1.2247449, 0], abs=1e-6)
    assert float(out[3]) == 0.0
    broken = whiten(torch.tensor([1.0, 2.0, 3.0, float("nan")]), torch.tensor([True, True, True, False]))
    assert torch.equal(out, broken)


def test_T22_gae_equals_stable_baselines3():
    from stable_baselines3.common.buffers import RolloutBuffer

    rng = np.random.default_rng(2)
    steps = 60
    space = gym.spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, space, space, device="cpu", gae_lambda=0.9, gamma=0.97, n_envs=1)
    rewards, values = rng.normal(size=(2, steps)).astype(np.float32)
    ends = rng.random(steps) < 0.15
    start = True
    for t in range(steps):
        buffer.add(
            np.zeros((1, 1)), np.zeros((1, 1)), rewards[t : t + 1], np.array([start]), torch.tensor(values[t : t + 1]), torch.zeros(1)
        )
        start = ends[t]
    boot = float(rng.normal())
    for name in ("rewards", "values", "advantages"):  # in fp32 its own rounding is as large as what is allowed here
        setattr(buffer, name, getattr(buffer, name).astype(np.float64))
    buffer.compute_returns_and_advantage(torch.tensor([boot], dtype=F64), np.array([ends[-1]]))
    mine, begin = [], 0
    for end in [*np.flatnonzero(ends).tolist(), steps - 1]:
        if end < begin:
            continue
        part = slice(begin, end + 1)
        over = bool(ends[end])
        advantages, _ = gae(
            torch.tensor(rewards[part], dtype=F64),
            torch.tensor(values[part], dtype=F64),
            torch.arange(end + 1 - begin),  # every step is a turn of one token
            gamma_token=0.3,
            gamma_turn=0.97,
            lam_token=0.3,
            lam_turn=0.9,
            bootstrap=0.0 if over else boot,
        )
        mine += advantages.tolist()
        begin = end + 1
    assert mine == pytest.approx(buffer.advantages[:, 0].tolist(), abs=1e-6, rel=0)


def test_kl_is_subtracted_at_every_token_and_the_reward_stays_at_the_end_of_its_turn():
    reward, kl = torch.tensor([0.0, 1.0, 0.0, 2.0]), torch.tensor([0.5, -0.5, 1.0, 0.0])
    assert token_rewards(reward, kl, 0.1).tolist() == pytest.approx([-0.05, 1.05, -0.1, 2.0])
    assert token_rewards(reward, None, 0.1) is reward


def test_wrong_shapes_and_turns_that_fall_are_refused():
    one = {"gamma_token": 1.0, "gamma_turn": 1.0, "lam_token": 1.0, "lam_turn": 1.0}
    with pytest.raises(ValueError, match="three 1-D tensors"):
        gae(torch.zeros(2), torch.zeros(3), torch.zeros(2), **one)
    with pytest.raises(ValueError, match="never fall"):
        gae(torch.zeros(2), torch.zeros(2), torch.tensor([1, 0]), **one)
    with pytest.raises(ValueError, match="no action token"):
        make_batch([Trajectory((turn([0], [], 1.0),), np.arange(2), True, False)], max_turns=3)


def test_a_turn_without_reward_is_still_a_turn():
    """Boundaries come from turn ids, never from reward values."""
    first, second = turn([0], [1, 2], 0.0), turn([0, 1, 2, 3], [4, 5], 1.0)
    batch = make_batch([Trajectory((first, second), np.arange(7), True, False)], max_turns=10)
    discounts = {"gamma_token": 1.0, "gamma_turn": 0.5, "lam_token": 1.0, "lam_turn": 1.0}
    advantages, _ = chain_gae(batch.reward_A, torch.zeros(4), batch.turn_A, batch.starts_C, torch.zeros(1), **discounts)
    assert advantages.tolist() == [0.5, 0.5, 1.0, 1.0]


def test_explained_variance_of_a_perfect_and_a_constant_critic():
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((3,), 2.0), returns) == pytest.approx(0.0)


def test_a_reward_paid_at_its_block_splits_the_turn_in_two_segments():
    """Two turns of three tokens, 0.4 of 1.4 and 0.5 of 0.5 decided by the first two; V = 0, γ = 1, λ_token 1, λ_turn ½."""
    first = Turn(np.arange(3), np.array([10, 11, 12]), np.zeros(3, np.float32), 1.4)
    second = Turn(np.arange(9), np.array([13, 14, 15]), np.zeros(3, np.float32), 0.5)
    paid = {10: [(2, 0.4), (3, 1.0)], 13: [(2, 0.5), (3, 0.0)]}
    batch = make_batch(
        [Trajectory((first, second), np.arange(13), terminated=True, truncated=False)],
        max_turns=2,
        payments=lambda turn: paid[int(turn.action_ids[0])],
    )
    assert batch.reward_A.tolist() == pytest.approx([0, 0.4, 1.0, 0, 0.5, 0.0])
    assert batch.turn_A.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.segment_A.tolist() == [0, 0, 1, 2, 2, 3]
    discounts = {"gamma_token": 1.0, "gamma_turn": 1.0, "lam_token": 1.0, "lam_turn": 0.5}
    advantages, _ = chain_gae(batch.reward_A, torch.zeros(6), batch.segment_A, batch.starts_C, torch.zeros(1), **discounts)
    # backwards: 0; .5 + ½·0; .5; 1 + ½·.5; .4 + ½·1.25; the same
    assert advantages.tolist() == pytest.approx([1.025, 1.025, 1.25, 0.5, 0.5, 0.0])


def test_a_turn_without_a_block_is_paid_at_its_end():
    only = Turn(np.arange(3), np.array([10, 11]), np.zeros(2, np.float32), 1.0)
    batch = make_batch([Trajectory((only,), np.arange(5), True, False)], max_turns=1, payments=lambda turn: [(0, 0.0), (2, 1.0)])
    assert batch.reward_A.tolist() == [0.0, 1.0]
    assert len(set(batch.segment_A.tolist())) == 1


def test_returns_are_targets_and_carry_no_gradient():
    """A critic's loss (V − R)² would be constant if R held V's own gradient."""
    values = torch.tensor([0.5, 0.25], requires_grad=True)
    one = {"gamma_token": 1.0, "gamma_turn": 1.0, "lam_token": 1.0, "lam_turn": 1.0}
    advantages, returns = gae(torch.tensor([0.0, 1.0]), values, torch.tensor([0, 0]), **one)
    assert not advantages.requires_grad
    assert not returns.requires_grad
    ((values - returns) ** 2).sum().backward()
    assert values.grad.tolist() == [-1.0, -1.5]
    with pytest.raises(ValueError, match=r"expected rewards and values that are floats; got torch\.int64"):
        gae(torch.tensor([0, 1]), values, torch.tensor([0, 0]), **one)


@pytest.mark.parametrize(("algo", "baseline"), [("grpo", "episode"), ("grpo", "turn"), ("rloo", "turn"), ("reinforce", "turn")])
def test_without_a_critic_a_failure_of_the_judge_is_no_bad_dialogue(algo, baseline):
    """Four dialogues alike that earn 1 a turn, one cut short by a failure: there is nothing to learn from that."""
    from rlpa_agent.advantages import estimate_advantages

    def dialogue(failed_at):
        turns = tuple(turn(list(range(2 * k + 1)), [k], 1.0, valid=k != failed_at) for k in range(failed_at + 1 if failed_at is not None else 5))
        return Trajectory(turns, np.arange(11), terminated=failed_at is None, truncated=failed_at is not None)

    def spread(cut):
        batch = make_batch([dialogue(None), dialogue(2), dialogue(None), dialogue(None)], max_turns=5, group=4, cut=cut)
        where = {"values_A": None, "bootstrap_C": None, "group_C": batch.group_C, "baseline": baseline}
        discounts = {"gamma_token": 1.0, "gamma_turn": 1.0, "lam_token": 1.0, "lam_turn": 1.0}
        advantages, _ = estimate_advantages(algo, batch.reward_A, batch.segment_A, batch.starts_C, **where, **discounts)
        if algo == "reinforce":  # compared with the others at the same turn, as its whitening does over all
            advantages = advantages - torch.stack([advantages[batch.turn_A == k].mean() for k in range(5)])[batch.turn_A]
        return float(advantages.abs().max()), batch.episode_C

    assert spread(cut=False) == (pytest.approx(0.0, abs=1e-6), (0, 2, 3))
    assert spread(cut=True)[0] > 0.5  # what would be learned from it


def test_a_rollout_that_failures_cut_to_pieces_teaches_nothing_without_a_critic():
    torso = Trajectory((turn([0], [1], 1.0), turn([0, 1], [2], 0.0, valid=False)), np.arange(3), terminated=False, truncated=True)
    assert len(make_batch([torso], max_turns=10).starts_C) == 1
    with pytest.raises(ValueError, match="at least one valid turn"):
        make_batch([torso], max_turns=10, cut=False)
