"""T23: a dialogue MDP small enough to be solved exactly, and the trainer on it.

Three turns, two hidden types. Turn 1 and 2 may ask A (the answer shows the type) or B (pays 0.05 at once, shows
nothing); X and Y guess the type, which pays only in turn 3. Guessing early pays nothing, asking late pays nothing.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import ToyEnv, char_policy, toy_config

from rlpa_agent.advantages import chain_gae
from rlpa_agent.batch import make_batch
from rlpa_agent.learner import Learner
from rlpa_agent.ppo import policy_loss
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn

ACTIONS, TURNS = "ABXY", 3


def play(kind: int, said: str) -> tuple[float, str]:
    last = said[-1]
    if len(said) == TURNS:
        return float(last == "XY"[kind]), "."
    return (0.05 if last == "B" else 0.0), (str(kind) if last == "A" else "?")


def observed(kind: int, said: str) -> str:
    return "".join(play(kind, said[: i + 1])[1] for i in range(len(said)))


def optimum(said: str = "", seen: str = "") -> float:
    """Dynamic programming over histories; the belief is uniform over the types that fit what was seen."""
    if len(said) == TURNS:
        return 0.0
    kinds = [kind for kind in (0, 1) if observed(kind, said) == seen]
    best = -1.0
    for action in ACTIONS:
        values = []
        for kind in kinds:
            reward, answer = play(kind, said + action)
            later = optimum(said + action, seen + answer) if len(said) + 1 < TURNS else 0.0
            values.append(reward + later)
        best = max(best, float(np.mean(values)))
    return best


def test_T23_dynamic_programming_by_hand():
    assert optimum() == pytest.approx(1.05)  # one A and one B in either order, then the right guess


def probabilities(policy, turns=TURNS, temperature=1.0):
    """log p of every action of every (kind, said) under the policy with gradient, by one forward over all histories."""
    chat, ids_of = policy.chat, policy.tokenizer.convert_tokens_to_ids
    rows, where, names = [], [], []
    for kind in (0, 1):
        for said in map("".join, itertools.product(ACTIONS, repeat=turns)):
            ids, places = chat.opening([{"role": "user", "content": "h"}]).tolist(), []
            for i, action in enumerate(said):
                places.append(len(ids))
                ids.append(ids_of(action))
                ids += chat.follow([ids_of(action)], play(kind, said[: i + 1])[1]).tolist()
            rows.append(ids)
            where.append(places)
            names.append((kind, said))
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    row_A = torch.arange(len(rows)).repeat_interleave(turns)
    pos_A = torch.tensor([place for places in where for place in places])
    scored = policy.score(padded, lengths, row_A, pos_A, torch.zeros(len(row_A)), temperature=temperature, need=("logp",))
    return names, scored.logp.view(len(rows), turns)


def exact_value(policy) -> torch.Tensor:
    """J = mean over types of the sum over action sequences of p(sequence) R(sequence)."""
    names, logp = probabilities(policy)
    returns = torch.tensor([sum(play(k, s[: i + 1])[0] for i in range(TURNS)) for k, s in names])
    return 0.5 * (logp.sum(1).exp() * returns).sum()


def dialogue(policy, kind, said):
    """The trajectory of this dialogue."""
    chat, ids_of = policy.chat, policy.tokenizer.convert_tokens_to_ids
    ids, turns = chat.opening([{"role": "user", "content": "h"}]).tolist(), []
    for i, action in enumerate(said):
        reward, answer = play(kind, said[: i + 1])
        sampled = np.array([ids_of(action)])
        turns.append(Turn(np.array(ids), sampled, np.zeros(1, np.float32), reward))
        ids += [*sampled.tolist(), *chat.follow(sampled, answer).tolist()]
    return Trajectory(tuple(turns), np.array(ids), False, True, "turn_limit")


def exact_values(policy, temperature=1.0):
    """How often each history (said, seen) comes up in a dialogue, and V^π there: by enumeration."""
    sums = {}
    for (kind, said), logp in zip(*probabilities(policy, temperature=temperature), strict=True):
        rewards, weight = [play(kind, said[: i + 1])[0] for i in range(TURNS)], 0.5 * float(logp.detach().sum().exp())
        for k in range(TURNS):
            visits, earned = sums.get((said[:k], observed(kind, said[:k])), (0.0, 0.0))
            sums[said[:k], observed(kind, said[:k])] = (visits + weight, earned + weight * sum(rewards[k:]))
    return {history: (visits, earned / visits) for history, (visits, earned) in sums.items()}


@torch.no_grad()
def critic_values(learner, histories):
    """What the critic says of each history."""
    policy, rows = learner.policy, []
    for said, seen in histories:
        ids = policy.chat.opening([{"role": "user", "content": "h"}]).tolist()
        for action, answer in zip(said, seen, strict=True):
            own = policy.tokenizer.convert_tokens_to_ids(action)
            ids += [own, *policy.chat.follow([own], answer).tolist()]
        rows.append(torch.tensor(ids))
    lengths, number = torch.tensor([len(row) for row in rows]), torch.arange(len(rows))
    fraction = torch.tensor([len(said) / TURNS for said, _ in histories])
    values = policy.value_at(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, number, lengths - 1, fraction)
    return (learner.normaliser.mean + learner.normaliser.std * values).tolist()


def test_T23_gradient_at_lambda_1_equals_the_enumerated_one(tmp_path):
    policy = char_policy(ACTIONS, seed=5)
    parameters = list(policy.parameters_policy())
    exact = torch.autograd.grad(exact_value(policy), parameters)

    names, logp = probabilities(policy)
    trajectories = [dialogue(policy, kind, said) for kind, said in names]
    batch = make_batch(trajectories, max_turns=TURNS)
    config = toy_config(tmp_path, TURNS)
    learner = Learner(policy, config)
    with torch.no_grad():  # a critic that is not 0: the baseline must not change the expected gradient
        torch.nn.init.normal_(policy.value_head.outer.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    estimates = learner.estimate(batch, 0)
    discounts = dict.fromkeys(("gamma_token", "gamma_turn", "lam_token", "lam_turn"), 1.0)
    boot = torch.zeros(len(batch.starts_C))
    advantages, _ = chain_gae(batch.reward_A, estimates.values_A, batch.turn_A, batch.starts_C, boot, **discounts)
    weights = 0.5 * logp.detach().sum(1).exp()
    total = None
    for micro in learner._micro(batch, list(range(len(batch.rows)))):
        scored = policy.score(
            micro.input_ids_BL, micro.lengths_B, micro.rows_A, micro.pos_A, batch.fraction_A[micro.index_A],
            temperature=1.0, need=("logp",),
        )  # fmt: skip
        loss = policy_loss(
            scored.logp,
            estimates.logp_old_A[micro.index_A],
            advantages[micro.index_A],
            clip_low=0.2,
            clip_high=0.2,
            weights_A=weights[batch.chain_A[micro.index_A]],
        ).loss
        total = loss if total is None else total + loss
    ours = torch.autograd.grad(-total, parameters)
    scale = max(float(gradient.abs().max()) for gradient in exact)
    assert scale > 1e-4
    for mine, theirs in zip(ours, exact, strict=True):
        assert float((mine - theirs).abs().max()) <= 1e-5 * max(1.0, scale)


@pytest.fixture(scope="module", params=[0, 1, 2])
def solved(request, tmp_path_factory):
    """A policy at the optimum, a learner whose critic has caught up, what the policy was worth at the start, and the seconds it all took."""
    began, seed = time.perf_counter(), request.param
    policy = char_policy(ACTIONS, seed=seed)
    trainer = Trainer(
        toy_config(tmp_path_factory.mktemp("solved"), TURNS, seed=seed, iterations=90, ppo={"entropy": 0.02, "epochs": 4, "minibatches": 2}),
        policy,
        lambda: ToyEnv(play, TURNS),
        quiet=True,
    )
    start = float(exact_value(policy).detach())
    for _ in range(90):
        trainer.one_iteration()
        if float(exact_value(policy).detach()) >= 0.97 * optimum():
            break
    trainer.learner.config = replace(trainer.config, ppo=replace(trainer.config.ppo, critic_warmup=10**6))
    for _ in range(15):  # the policy stands still now, the critic catches up
        trainer.one_iteration()
    errors = critic_errors(trainer.learner, exact_values(policy), 0.1)
    return trainer.policy, errors, critic_of(trainer.policy, tmp_path_factory.mktemp("critic")), start, time.perf_counter() - began


def critic_errors(learner, exact, share):
    """How far the critic is from the value of every history that comes up in such a share of the dialogues."""
    seen = {history: value for history, (visits, value) in exact.items() if visits >= share}
    return {history: abs(said - value) for (history, value), said in zip(seen.items(), critic_values(learner, list(seen)), strict=True)}


def critic_of(policy, folder, temperature=1.0):
    """A learner whose critic has caught up with a policy that stands still, on a rollout that holds each dialogue as often as is likely."""
    names, logp = probabilities(policy, temperature=temperature)
    often = (0.5 * logp.detach().sum(1).exp() * 2000).round().int().tolist()
    rollout = [talk for name, times in zip(names, often, strict=True) for talk in [dialogue(policy, *name)] * times]
    ppo = {"critic_warmup": 10**6, "epochs": 1, "minibatches": 1, "critic_steps": 600}
    learner = Learner(policy, toy_config(folder, TURNS, rollout={"temperature": temperature}, ppo=ppo))
    for iteration in range(3):
        learner.update(make_batch(rollout, max_turns=TURNS), iteration)
    return learner


def test_T23_ppo_reaches_the_optimum_and_the_critic_knows_its_value(solved):
    """The value of every history that comes up once in a hundred dialogues. Of what the policy has ceased to do the critic sees too little."""
    policy, errors, learner, start, seconds = solved
    assert max(errors.values()) <= 0.1, errors  # of the trainer's own critic, where 64 dialogues tell it enough
    assert start < 0.7
    assert float(exact_value(policy).detach()) >= 0.95 * optimum()
    exact = exact_values(policy)
    seen = {history: value for history, (visits, value) in exact.items() if visits >= 0.01}
    assert sum(exact[history][0] for history in seen) > 0.95 * TURNS
    errors = critic_errors(learner, exact, 0.01)
    assert max(errors.values()) <= 0.1, errors
    assert seconds < 60


def test_T23_where_every_history_comes_up_the_critic_knows_the_value_of_every_one(solved, tmp_path):
    """The same policy at a temperature at which it still does everything now and then."""
    policy, temperature = solved[0], 4.0
    learner = critic_of(policy, tmp_path, temperature)
    exact = exact_values(policy, temperature)
    assert len(exact) == 1 + 5 + 2 * 4 + 3 * 5  # all that can have been said and answered before turns 1, 2 and 3
    values = np.array([value for _, value in exact.values()])
    assert values.max() - values.min() > 0.25  # so that no constant is within 0.1 of all
    errors = np.abs(np.array(critic_values(learner, list(exact))) - values)
    assert errors.max() <= 0.1, list(exact)[int(errors.argmax())]
