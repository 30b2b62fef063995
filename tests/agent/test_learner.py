"""The update: normalised over the whole step, first ratios exactly 1, the critic alone in its warm-up, credit over turns."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import tiny_models
import torch
from test_advantages import fixture_f
from tiny_models import Script
from toy import ToyEnv, char_policy, toy_config

from rlpa_agent.batch import make_batch, micro_batches
from rlpa_agent.config import PRESETS, EvalConfig, ModelConfig, PPOConfig, RolloutConfig, TrainConfig
from rlpa_agent.estimates import UpdateStats
from rlpa_agent.learner import Learner, Normaliser
from rlpa_agent.loading import faster_dtype
from rlpa_agent.policy import Policy
from rlpa_agent.progress import health, update_figures
from rlpa_agent.rollout import collect
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError

LINES = ("Well, I bake.", "No.", "My sister is the nurse in the family, you know")


def gathered(policy, n=6, turns=3):
    envs = [Script(LINES, turns=turns, pay=lambda text, turn: float(len(text) % 3)) for _ in range(3)]
    return collect(policy, envs, seeds=range(n), max_new_tokens=12, max_turns=turns, temperature=1.0)


def flat_gradients(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters_policy()])


@pytest.mark.parametrize("budget", [1, 20, 100_000])
def test_T9_the_loss_is_a_mean_over_tokens_however_it_is_cut(tmp_path, budget):
    """Rows of 1 and 3 action tokens, w = 1, A = (+1; −1 −1 −1): (−1 + 3)/4 = 0.5."""
    policy = tiny_models.policy()
    context = policy.chat.opening([("user", "Hello")])
    rows = [np.array([40]), np.array([41, 42, 43])]
    trajectories = [
        Trajectory((Turn(context, ids, np.zeros(len(ids), np.float32), 0.0),), context, True, False) for ids in rows
    ]
    batch = make_batch(trajectories, max_turns=10)
    learner = Learner(policy, toy_config(tmp_path, 10, ppo={"beta": 0.0}))
    estimates = dataclasses.replace(learner.estimate(batch, 0), advantages_A=torch.tensor([1.0, -1.0, -1.0, -1.0]))
    total = 0.0
    policy.lm.zero_grad()
    cut = list(micro_batches(batch, [0, 1], budget))
    assert len(cut) == (2 if budget < 24 else 1)
    for micro in cut:
        loss, parts = learner.loss(batch, micro, estimates, batch.tokens)
        loss.backward()
        total += parts["policy"] / batch.tokens
    assert total == pytest.approx(0.5, abs=1e-6)
    mine = flat_gradients(policy)
    policy.lm.zero_grad()
    ids = [torch.tensor(np.concatenate([context, row]))[None] for row in rows]
    plain = 0.0
    for sign, row in zip((-1.0, 1.0), ids, strict=True):  # d/dθ of −A·logp, since w = 1
        logits = policy.lm(input_ids=row).logits[0].masked_fill(policy.banned_V, -torch.inf)
        logp = logits.log_softmax(-1)
        first = len(context)
        plain = plain + sign * sum(logp[p - 1, row[0, p]] for p in range(first, row.shape[1])) / 4
    plain.backward()
    assert float((mine - flat_gradients(policy)).abs().max()) <= 1e-6


def test_T10_first_minibatch_has_ratios_of_exactly_1(tmp_path):
    policy = tiny_models.policy(sharpness=2.0)
    batch = make_batch(gathered(policy), max_turns=3)
    config = toy_config(tmp_path, 3, optim={"token_budget": 300})
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, update_dtype="bfloat16"))
    learner = Learner(policy, config)
    estimates, stats = learner.update(batch, 0)
    assert stats.first_ratio_error == 0.0
    assert torch.equal(estimates.logp_old_A, estimates.logp_ref_A)  # KL to the reference is 0 at the start
    once = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, epochs=1, minibatches=1))
    _, stats = Learner(tiny_models.policy(sharpness=2.0), once).update(batch, 0)
    assert (stats.steps, stats.first_ratio_error, stats.approx_kl, stats.clip_fraction) == (1, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("row_per_turn", [False, True])
@pytest.mark.parametrize(("gamma", "lam", "expected"), [(1.0, 0.95, (1.3874625, 1.56575, 0.385, 0.3)), (0.99, 0.95, (1.350792, 1.546829, 0.37515, 0.3)), (1.0, 1.0, (1.5, 1.6, 0.4, 0.3))])
def test_T2_the_learner_itself_gives_the_fixture(tmp_path, row_per_turn, gamma, lam, expected):
    """Not gae alone: rewards, segments, chains and ends as an update takes them."""
    batch, values = fixture_f(4, row_per_turn)
    ppo = {"gamma_token": gamma, "gamma_turn": gamma, "lam_token": lam, "lam_turn": lam, "beta": 0.01}
    learner, same = Learner(tiny_models.policy(), toy_config(tmp_path, 10, ppo=ppo)), torch.full((4,), -1.0)
    made = learner.conclude(batch, same, same, values.float(), torch.zeros(1))
    assert made.raw_A.tolist() == pytest.approx(expected, abs=1e-6)
    assert float(made.advantages_A.mean()) == pytest.approx(0, abs=1e-6)
    assert float((made.advantages_A**2).mean()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("ending", "horizon", "continues"),
    [
        ("terminated", "truncate", None),
        ("turn_limit", "terminal", None),
        ("turn_limit", "truncate", "final"),
        ("context", "terminal", "final"),  # never a turn limit, whatever the number of turns
        ("invalid", "terminal", "cut"),
    ],
)
def test_the_value_behind_a_chain_is_that_of_the_state_it_was_cut_at(tmp_path, ending, horizon, continues):
    policy = tiny_models.policy()
    torch.nn.init.normal_(policy.value_head.outer.weight, generator=torch.Generator().manual_seed(1))
    opening = policy.chat.opening([("user", "Hello")])
    second = np.concatenate([opening, [40, 41, 50]])
    final = np.concatenate([second, [42, 51, 52]])
    turns = (Turn(opening, np.array([40, 41]), np.zeros(2, np.float32), 1.0), Turn(second, np.array([42]), np.zeros(1, np.float32), 2.0, valid=ending != "invalid"))
    over = ending == "terminated"
    batch = make_batch([Trajectory(turns, final, over, not over, "context" if ending == "context" else "turn_limit")], max_turns=2, horizon=horizon)
    learner = Learner(policy, toy_config(tmp_path, 2))
    learner.normaliser = Normaliser(3.0, 2.0, 1)
    (boot,) = learner.estimate(batch, 0).bootstrap_C.tolist()
    if continues is None:
        assert boot == 0.0
        return
    state, played = (second, 1) if continues == "cut" else (final, 2)
    with torch.no_grad():
        hidden = policy.lm.base_model(input_ids=torch.tensor(state)[None]).last_hidden_state[0, -1:]
        value = float(policy.value_head(hidden, torch.tensor([played / 2])))
    assert boot == pytest.approx(3.0 + 2.0 * value, abs=1e-5)
    assert abs(value) > 0.01


@pytest.mark.parametrize(("value_grad", "weight"), [("detach", 1.0), ("shared", 0.1)])
def test_the_value_loss_weighs_a_tenth_where_it_moves_the_trunk(tmp_path, value_grad, weight):
    policy = tiny_models.policy(value_grad=value_grad)
    batch = make_batch(gathered(policy, 2), max_turns=3)
    learner = Learner(policy, toy_config(tmp_path, 3, model={"value_grad": value_grad}))
    estimates = learner.estimate(batch, 0)
    (micro,) = micro_batches(batch, range(len(batch.rows)), 100_000)
    loss, parts = learner.loss(batch, micro, estimates, batch.tokens)
    assert parts["value"] > 0.1
    assert float(loss.detach()) * batch.tokens == pytest.approx(parts["policy"] + weight * parts["value"], abs=1e-3)


def test_what_sampling_has_computed_need_not_be_scored_again(tmp_path, monkeypatch):
    """Old logp, values and the states of the critic's own steps, on a policy that has left its reference; both layouts."""
    policy = tiny_models.policy(sharpness=2.0)
    policy.freeze_reference()
    torch.nn.init.normal_(policy.value_head.outer.weight, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for weight in policy.parameters_policy():
            weight.mul_(1.05)
    envs = [Script(LINES, turns=3, pay=lambda text, turn: float(len(text) % 3)) for _ in range(3)]
    kept = collect(policy, envs, seeds=range(6), max_new_tokens=12, max_turns=3, temperature=0.7, keep_states=True)
    for per_turn in (False, True):
        batch = make_batch(kept, max_turns=3, per_turn=per_turn)
        made = {}
        for old in ("scored", "sampled"):
            config = toy_config(tmp_path, 3, ppo={"old_logp": old, "critic_steps": 2}, rollout={"temperature": 0.7}, model={"update_dtype": "float32"})
            if old == "sampled":
                monkeypatch.setattr(Policy, "score", None)
            made[old] = Learner(policy, config).estimate(batch, 0)
            monkeypatch.undo()
        assert float((made["scored"].logp_ref_A - made["scored"].logp_old_A).abs().max()) > 0.01
        for name in ("logp_old_A", "logp_ref_A", "values_A", "advantages_A", "returns_A", "hidden_AH"):
            scored, sampled = getattr(made["scored"], name), getattr(made["sampled"], name)
            assert float(scored.abs().max()) > 0.01, name
            assert float((scored - sampled).abs().max()) <= 1e-4 * max(1.0, float(scored.abs().max())), name


@pytest.mark.parametrize("other", ["update", "rollout", "server"])
def test_sampled_logp_are_refused_where_sampling_computes_differently(tmp_path, other):
    policy = tiny_models.policy()
    if other == "rollout":
        policy.rollout_dtype = torch.bfloat16
    model = {"update_dtype": "bfloat16" if other == "update" else "float32"}
    config = toy_config(tmp_path, 3, ppo={"old_logp": "sampled"}, model=model, rollout={"server": "http://x" if other == "server" else None})
    told = {"update": "update_dtype bfloat16", "rollout": "rollout_dtype bfloat16", "server": "a generator elsewhere"}
    with pytest.raises(ConfigError, match=rf"old_logp: expected 'scored' .*; got 'sampled' with {told[other]}"):
        Learner(policy, config)


def test_without_a_critic_no_states_are_kept_and_no_head_is_fitted_to_them(tmp_path):
    policy = tiny_models.policy()
    rollout = {"dialogues": 4, "concurrent": 2, "group": 2, "max_new_tokens": 8}
    config = toy_config(tmp_path, 3, algo="grpo", ppo={"old_logp": "sampled", "critic_steps": 40, "beta": 0.01}, rollout=rollout)
    trainer = Trainer(config, policy, lambda: Script(LINES, turns=3, pay=lambda text, turn: float(len(text) % 3)), quiet=True)
    held, _ = trainer.gather()
    assert all(turn.states is None for t in held for turn in t.turns)
    envs = [Script(LINES, turns=3, pay=lambda text, turn: float(len(text) % 3)) for _ in range(2)]
    kept = collect(policy, envs, seeds=range(4), max_new_tokens=8, max_turns=3, temperature=1.0, keep_states=True)
    before = [p.detach().clone() for p in policy.parameters_value()]
    trainer.learner.update(make_batch(kept, max_turns=3, group=2), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters_value(), strict=True))
    with_critic = Learner(policy, toy_config(tmp_path, 3, ppo={"old_logp": "sampled"}))
    with pytest.raises(ValueError, match="states: expected those that the tokens were drawn from"):
        with_critic.estimate(make_batch(held, max_turns=3), 0)


@pytest.mark.parametrize("off", [0.0, 0.05])
def test_sampling_that_computes_otherwise_is_told_where_its_logp_are_taken(tmp_path, off):
    """sampling_mismatch is 0 then by definition, so the first ratios have to say it."""
    policy = tiny_models.policy(sharpness=2.0)
    envs = [Script(LINES, turns=3) for _ in range(2)]
    batch = make_batch(collect(policy, envs, seeds=range(4), max_new_tokens=8, max_turns=3, temperature=1.0, keep_states=True), max_turns=3)
    batch = dataclasses.replace(batch, logp_old_A=batch.logp_old_A + off)
    learner = Learner(policy, toy_config(tmp_path, 3, ppo={"old_logp": "sampled"}))
    figures = update_figures(batch, *learner.update(batch, 0))
    assert figures["sampling_mismatch_max"] == 0.0
    assert figures["first_ratio_error"] == pytest.approx(1 - np.exp(-off), abs=1e-4)
    assert ("off 1: sampling and update compute apart" in health(figures)) is (off > 0)


def test_auto_is_float32_where_sampled_logp_are_taken(tmp_path, monkeypatch):
    """Else the same command would run or be refused as a stopwatch says."""
    monkeypatch.setattr("rlpa_agent.learner.update_dtype", lambda device, width: "bfloat16")
    for old, expected in (("sampled", "float32"), ("scored", "bfloat16")):
        config = toy_config(tmp_path, 3, ppo={"old_logp": old}, model={"update_dtype": "auto"})
        assert Learner(tiny_models.policy(), config).update_dtype == expected


def test_T10_another_partition_is_close_and_clips_nothing(tmp_path):
    policy = tiny_models.policy(sharpness=2.0)
    batch = make_batch(gathered(policy), max_turns=3)
    learner = Learner(policy, toy_config(tmp_path, 3))
    estimates = learner.estimate(batch, 0)
    for budget in (1, 100_000):
        for micro in micro_batches(batch, range(len(batch.rows)), budget):
            _, parts = learner.loss(batch, micro, estimates, batch.tokens)
            assert parts["ratio_error"] <= 1e-4
            assert parts["clipped"] == 0
            assert parts["kl"] == pytest.approx(0, abs=1e-5)


def test_T15_user_tokens_have_no_gradient(tmp_path):
    """The logits at positions that predict context get no gradient: they are never computed."""
    policy = tiny_models.policy()
    batch = make_batch(gathered(policy, 2), max_turns=3)
    learner = Learner(policy, toy_config(tmp_path, 3))
    _, stats = learner.update(batch, 0)
    assert stats.head_positions == stats.policy_positions == stats.action_tokens  # LM head at action positions only
    other = tiny_models.policy()
    ids = torch.from_numpy(batch.rows[0])[None]
    hidden = []

    def keep(module, inputs, output):
        output.retain_grad()
        hidden.append(output)

    hook = other.lm.model.norm.register_forward_hook(keep)
    rows, positions = (batch.row_A == 0).nonzero()[:, 0], batch.pos_A[batch.row_A == 0]
    scored = other.score(
        ids, torch.tensor([ids.shape[1]]), torch.zeros_like(rows), positions, torch.zeros(len(rows)), temperature=1.0
    )
    hook.remove()
    scored.logp.sum().backward()
    touched = set(hidden[0].grad[0].abs().sum(-1).nonzero()[:, 0].tolist())
    assert touched == {int(p) - 1 for p in positions}


def test_T19_critic_warm_up_leaves_the_policy_bitwise_alone(tmp_path):
    policy = tiny_models.policy()
    before = [p.detach().clone() for p in policy.parameters_policy()]
    batch = make_batch(gathered(policy), max_turns=3)
    learner = Learner(policy, toy_config(tmp_path, 3, ppo={"critic_warmup": 20}))
    losses = [learner.update(batch, i)[1].value_loss for i in range(8)]
    assert losses[-1] < 0.9 * losses[1]
    for old, new in zip(before, policy.parameters_policy(), strict=True):
        assert torch.equal(old, new)


def test_T19_a_constant_reward_teaches_the_critic_the_turns_that_are_left(tmp_path):
    """Reward 1 over 10 turns, horizon terminal: V before turn k is 11 − k."""
    policy = char_policy("ab")
    config = toy_config(
        tmp_path, 10, ppo={"critic_warmup": 100, "epochs": 4, "lam_turn": 1.0}, optim={"critic_lr": 1e-2}, rollout={"dialogues": 24, "concurrent": 24}
    )
    trainer = Trainer(config, policy, lambda: ToyEnv(lambda kind, said: (1.0, "u"), 10), quiet=True)
    for _ in range(20):
        trainer.one_iteration()
    trajectories, _ = trainer.gather()
    batch = make_batch(trajectories, max_turns=10)
    values = trainer.learner.estimate(batch, 0).values_A
    for k in range(1, 11):
        assert float(values[batch.turn_A == k - 1].mean()) == pytest.approx(11 - k, rel=0.10)


def test_the_policys_warm_up_begins_when_it_begins_to_learn(tmp_path):
    batch, seen = make_batch(gathered(tiny_models.policy()), max_turns=3), []
    config = toy_config(tmp_path, 3, ppo={"critic_warmup": 1, "epochs": 1, "minibatches": 4}, optim={"policy_lr": 1.0, "critic_lr": 1.0, "warmup_iterations": 2})
    learner = Learner(tiny_models.policy(), config)
    learner._step = lambda *_, **__: seen.append([learner.optimizers[name].param_groups[0]["lr"] for name in ("policy", "critic")]) or True
    for iteration in range(4):
        learner.update(batch, iteration)
    policy, critic = zip(*seen, strict=True)
    assert policy == pytest.approx([0] * 4 + [k / 8 for k in range(1, 9)] + [1] * 4)
    assert critic == pytest.approx([k / 8 for k in range(1, 9)] + [1] * 8)


def test_a_linear_schedule_lets_the_policys_rate_fall_with_the_run_and_leaves_the_critics(tmp_path):
    batch, seen = make_batch(gathered(tiny_models.policy()), max_turns=3), []
    ppo, optim = {"critic_warmup": 0, "epochs": 1, "minibatches": 2}, {"policy_lr": 1.0, "critic_lr": 1.0, "warmup_iterations": 1, "schedule": "linear"}
    learner = Learner(tiny_models.policy(), toy_config(tmp_path, 3, ppo=ppo, optim=optim))
    learner._step = lambda *_, **__: seen.append([learner.optimizers[name].param_groups[0]["lr"] for name in ("policy", "critic")]) or True
    for iteration, done in enumerate((0.0, 0.25, 0.9)):
        learner.update(batch, iteration, done)
    policy, critic = zip(*seen, strict=True)
    assert policy == pytest.approx([0.5, 1.0, 0.75, 0.75, 0.1, 0.1])
    assert critic == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 1.0])


def test_the_critic_can_learn_what_was_earned_in_full_whatever_trace_the_advantages_take(tmp_path):
    """An ignorant critic (V = 0): with lam_critic 1 its targets are the rewards to come, with None those of lam_turn."""
    batch = make_batch(gathered(tiny_models.policy()), max_turns=3)
    found = {}
    for lam in (None, 1.0):
        ppo = {"beta": 0.0, "lam_token": 1.0, "lam_turn": 0.5, "lam_critic": lam}
        found[lam] = Learner(tiny_models.policy(), toy_config(tmp_path, 3, ppo=ppo)).estimate(batch, 0)
    to_come = torch.cat([part.flip(0).cumsum(0).flip(0) for part in batch.reward_A.tensor_split(batch.starts_C[1:])])
    assert torch.allclose(found[1.0].returns_A, to_come, atol=1e-5)
    assert torch.allclose(found[None].returns_A, found[None].raw_A, atol=1e-6)
    assert not torch.allclose(found[None].returns_A, to_come, atol=1e-2)
    assert torch.equal(found[1.0].raw_A, found[None].raw_A)


def late(kind, said):
    """The first action pays in the second turn: 'a' is right for people who open with g, 'b' for h. Chance is ½."""
    return (float(said[0] == "ab"[kind]) if len(said) == 2 else 0.0), "u"


def solved(tmp_path, seed, gamma_turn, iterations=12, dialogues=384):
    """Mean probability of the right first action after training.

    With credit five iterations are enough; without a signal the policy walks at random, and many dialogues keep its steps small.
    """
    config = toy_config(
        tmp_path,
        2,
        seed=seed,
        ppo={"gamma_turn": gamma_turn, "epochs": 2, "minibatches": 2},
        rollout={"dialogues": dialogues, "concurrent": 64},
    )
    policy = char_policy("ab", seed=seed)
    trainer = Trainer(config, policy, lambda: ToyEnv(late, 2, openings="gh"), quiet=True)
    ids = policy.tokenizer.convert_tokens_to_ids(["a", "b"])

    def right():
        with torch.no_grad():
            logits = [
                policy.lm(input_ids=torch.tensor(policy.chat.opening([("user", opening)]))[None]).logits[0, -1][ids]
                for opening in "gh"
            ]
        return float(sum(torch.softmax(row, -1)[kind] for kind, row in enumerate(logits))) / 2

    for _ in range(iterations):
        trainer.one_iteration()
        if right() > 0.95:
            break
    return right()


@pytest.mark.parametrize("seed", range(5))
def test_T20_a_first_turn_that_pays_later_is_learned(tmp_path, seed):
    assert solved(tmp_path, seed, 1.0) > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_T20_credit_that_ends_with_the_turn_learns_nothing(tmp_path, seed):
    assert abs(solved(tmp_path, seed, 0.0) - 0.5) <= 0.1


def test_a_non_finite_step_is_skipped_and_three_running_stop(tmp_path):
    policy = tiny_models.policy()
    batch = make_batch(gathered(policy), max_turns=3)
    batch.reward_A[-1] = float("nan")
    before = [p.detach().clone() for p in policy.parameters_policy()]
    learner = Learner(policy, toy_config(tmp_path, 3))
    with pytest.raises(FloatingPointError, match="three optimizer steps"):
        learner.update(batch, 0)
    for old, new in zip(before, policy.parameters_policy(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("warmup", [0, 1])
def test_a_reward_that_is_no_number_spoils_neither_critic_nor_normaliser(tmp_path, bad, warmup):
    policy = tiny_models.policy()
    good = make_batch(gathered(policy), max_turns=3)
    ppo = {"epochs": 1, "minibatches": 1, "critic_steps": 3, "critic_warmup": warmup}
    learner = Learner(policy, toy_config(tmp_path, 3, ppo=ppo))
    learner.update(good, 0)
    weights = [*policy.parameters_policy(), *policy.parameters_value()]
    before, normaliser = [p.detach().clone() for p in weights], learner.normaliser
    good.reward_A[-1] = bad
    _, stats = learner.update(good, 0)
    assert learner.normaliser == normaliser
    assert stats.skipped == 4
    assert stats.steps == 0
    for old, new in zip(before, weights, strict=True):
        assert torch.equal(old, new)


def test_a_critic_that_begins_a_new_run_says_what_it_said_in_its_own(tmp_path):
    policy = tiny_models.policy()
    batch = make_batch(gathered(policy), max_turns=3)
    batch.reward_A.mul_(8.0)
    config = toy_config(tmp_path, 3, ppo={"critic_warmup": 10, "critic_steps": 20})
    learner = Learner(policy, config)
    learner.update(batch, 0)
    learner.update(batch, 1)
    said = learner.estimate(batch, 0).values_A
    assert float(said.mean()) > 2
    policy.save(tmp_path / "policy")
    loaded = Learner(Policy.load(tmp_path / "policy"), config)
    assert torch.equal(loaded.estimate(batch, 0).values_A, said)
    # A checkpoint of an earlier version tells the units in state.json alone.
    policy.value_head.units = (0.0, 1.0)
    learner.load_state(learner.state())
    assert policy.value_head.units == (learner.normaliser.mean, learner.normaliser.std)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_entropy_is_differentiated_only_where_it_is_learned_from(tmp_path, monkeypatch, weight):
    policy, seen = tiny_models.policy(), []
    batch = make_batch(gathered(policy, 2), max_turns=3)
    learner = Learner(policy, toy_config(tmp_path, 3, ppo={"entropy": weight}))
    whole = learner.loss_of
    monkeypatch.setattr(learner, "loss_of", lambda scored, *rest: seen.append(scored.entropy.requires_grad) or whole(scored, *rest))
    _, stats = learner.update(batch, 0)
    assert set(seen) == {weight > 0}
    assert stats.entropy > 0


def test_defaults_of_the_objective_and_of_both_optimizers(tmp_path):
    ppo, rollout, judged = PPOConfig(), RolloutConfig(), EvalConfig()
    assert (ppo.gamma_token, ppo.gamma_turn, ppo.lam_token, ppo.lam_turn) == (1.0, 1.0, 0.95, 0.95)
    assert (ppo.epochs, ppo.minibatches, ppo.entropy, ppo.beta, ppo.target_kl) == (2, 4, 0.0, 0.01, 0.03)
    assert (ppo.clip_low, ppo.clip_high, ppo.dual_clip, ppo.value_clip, ppo.vf_coef, ppo.horizon) == (0.2, 0.2, None, None, 0.1, "terminal")
    assert (rollout.profile_weight, rollout.response_weight, rollout.temperature, ppo.old_logp) == (1.0, 1.0, 1.0, "scored")
    assert (judged.split, judged.users) == ("vanilla/val", 50)
    assert [PRESETS[name].rollout.max_new_tokens for name in ("tiny", "qwen2.5-0.5b")] == [160, 128]
    assert PRESETS["qwen2.5-0.5b"].optim.policy_lr == 1e-4
    plain = TrainConfig(model=ModelConfig(update_dtype="float32"), out=tmp_path)
    learner = Learner(tiny_models.policy(), plain)
    for name, rate in (("policy", 1e-4), ("critic", 1e-3)):
        (group,) = learner.optimizers[name].param_groups
        assert type(learner.optimizers[name]) is torch.optim.AdamW
        assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (rate, (0.9, 0.95), 1e-8, 0.0)


def test_the_gradient_of_each_optimizer_is_clipped_by_itself(tmp_path):
    policy = tiny_models.policy()
    learner = Learner(policy, toy_config(tmp_path, 3))
    for weight, size in [(w, 100.0) for w in policy.parameters_policy()] + [(w, 1e-4) for w in policy.parameters_value()]:
        weight.grad = torch.full_like(weight, size)
    small = [w.grad.clone() for w in policy.parameters_value()]
    learner._apply({"policy": 0.0}, UpdateStats(), critic_only=False)
    assert float(flat_gradients(policy).norm()) == pytest.approx(1.0, rel=1e-4)
    assert all(torch.equal(a, w.grad) for a, w in zip(small, policy.parameters_value(), strict=True))  # no more than 1 before


def test_target_kl_stops_the_epochs(tmp_path):
    policy = tiny_models.policy()
    batch = make_batch(gathered(policy), max_turns=3)
    learner = Learner(policy, toy_config(tmp_path, 3, ppo={"target_kl": 1e-6, "epochs": 10}, optim={"policy_lr": 3e-3}))
    _, stats = learner.update(batch, 0)
    assert stats.stopped_by_kl
    assert 0 < stats.steps < 5
    assert stats.approx_kl > 1e-6
    assert PPOConfig().target_kl == 0.03


def test_no_step_is_taken_from_beyond_target_kl(tmp_path):
    """The step whose own tokens show that the policy is too far is not taken: what was measured is what is kept."""
    policy = tiny_models.policy()
    batch = make_batch(gathered(policy), max_turns=3)
    learner = Learner(policy, toy_config(tmp_path, 3, ppo={"target_kl": 0.01}))
    rows, stats = list(range(len(batch.rows))), UpdateStats()
    estimates = learner.estimate(batch, 0)
    with torch.no_grad():
        for weight in policy.parameters_policy():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    moved = [weight.detach().clone() for weight in policy.parameters_policy()]
    assert learner._step(batch, rows, estimates, stats, critic_only=False, first=False)
    assert (stats.stopped_by_kl, stats.steps) == (True, 0)
    assert stats.approx_kl > 0.01
    assert all(torch.equal(a, b) for a, b in zip(moved, policy.parameters_policy(), strict=True))
    assert learner._step(batch, rows, estimates, stats, critic_only=True, first=False)  # the critic may go on
    assert (stats.stopped_by_kl, stats.steps) == (False, 1)


@pytest.mark.parametrize("warmup", [0, 1])
def test_more_steps_of_the_critic_fit_it_and_leave_the_policy_alone(tmp_path, warmup):
    def after(steps):
        policy = tiny_models.policy(sharpness=2.0)
        batch = make_batch(gathered(policy), max_turns=3)
        ppo = {"critic_steps": steps, "critic_warmup": warmup}
        learner = Learner(policy, toy_config(tmp_path, 3, ppo=ppo, optim={"critic_lr": 1e-3}))
        estimates, _ = learner.update(batch, 0)
        error = float(((learner.estimate(batch, 1).values_A - estimates.returns_A) ** 2).mean())
        return torch.cat([p.detach().flatten() for p in policy.parameters_policy()]), error

    (plain, error), (fitted, less) = after(0), after(200)
    assert torch.equal(plain, fitted)
    if warmup:  # else the policy has moved on from the states that the head was fitted to
        assert less < 0.5 * error


def test_more_steps_of_a_critic_that_moves_the_trunk_are_refused(tmp_path):
    config = toy_config(tmp_path, 3)
    with pytest.raises(ConfigError, match=r"critic_steps: expected 0 with model\.value_grad='shared'"):
        dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, value_grad="shared"),
            ppo=dataclasses.replace(config.ppo, critic_steps=5),
        )


def test_one_call_that_was_held_up_does_not_decide_which_type_is_faster(monkeypatch):
    plain, calls = torch.nn.functional.linear, {torch.float32: 0, torch.bfloat16: 0}

    def linear(left, right, bias=None):
        calls[left.dtype] += 1
        if left.dtype == torch.bfloat16 or calls[left.dtype] == 2:
            time.sleep(0.02 if left.dtype == torch.bfloat16 else 0.5)  # the first pair after warming up
        return plain(left, right, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    assert faster_dtype(16) == "float32"
    assert calls[torch.float32] == 6


@pytest.mark.parametrize(("slow", "expected"), [(torch.bfloat16, "float32"), (torch.float32, "bfloat16")])
def test_the_update_runs_in_what_multiplies_faster_here(monkeypatch, tmp_path, slow, expected):
    plain = torch.nn.functional.linear

    def linear(left, right, bias=None):
        if left.dtype == slow and len(left) == 1024:
            time.sleep(0.2)  # far above what the other type takes on a busy machine
        return plain(left, right, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    assert faster_dtype(16) == expected
    learner = Learner(tiny_models.policy(), toy_config(tmp_path, 3, model={"update_dtype": "auto"}))
    assert learner.update_dtype == expected
    with learner._autocast():
        product = plain(torch.ones(2, 2), torch.ones(2, 2))
    assert str(product.dtype) == f"torch.{expected}"
