"""Contexts that are rewritten between turns: what they hold, that rollout and evaluation see the same, and official mode."""

from __future__ import annotations

import copy
import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import tiny_models
import torch
from test_evaluate import drive, scripts
from toy import ToyEnv, char_policy, toy_config

from rlpa_agent import pool
from rlpa_agent.advantages import chain_gae, group_advantages
from rlpa_agent.batch import make_batch, micro_batches
from rlpa_agent.config import RolloutConfig
from rlpa_agent.contexts import ContextKind, read_context, save_context
from rlpa_agent.evaluate import PolicyAgent, policy_agent
from rlpa_agent.learner import Learner
from rlpa_agent.rollout import RolloutCounts, collect
from rlpa_agent.rollout_files import load_rollout
from rlpa_agent.token_table import token_lines
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_env import ConfigError, format_action

KINDS = [ContextKind("append"), ContextKind("latest"), ContextKind("window", 1), ContextKind("window", 2)]
USERS = ("one", "two", "three", "four")


def answer(number, block=True):
    """Characters as single tokens, which no tokenizer would give: to be kept as they were sampled."""
    tokenizer = tiny_models.tokenizer()
    text = (f"<profile>\n- Age: {number}\n</profile>" if block else "") + f"\nreply {number}"
    ids = [i for character in text for i in tokenizer.encode(character, add_special_tokens=False)]
    return [*ids, tokenizer.convert_tokens_to_ids("<|im_end|>")]


def fed(kind, blocks=(True, True, True)):
    """Text and ids of the context after three answers."""
    chat = tiny_models.policy(max_user_tokens=96).chat
    chat.kept = kind
    pieces = chat.begin([("user", USERS[0])])
    for number, (said, block) in enumerate(zip(USERS[1:], blocks, strict=True)):
        chat.extend(pieces, answer(number, block), said)
    ids = chat.context(pieces)
    return chat.tokenizer.decode(ids, skip_special_tokens=False), ids.tolist(), chat


def dialogue(*turns):
    """The text of (user, answer) pairs as the template has it, up to the next header."""
    text = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for pair in turns for role, said in zip(("user", "assistant"), pair))
    return text + "<|im_start|>assistant\n"


BLOCK = "<profile>\n- Age: {}\n</profile>"


@pytest.mark.parametrize(
    ("kind", "blocks", "expected"),
    [
        (KINDS[0], (True, True, True), [(0, 0), (1, 1), (2, 2)]),
        (KINDS[1], (True, True, True), [(0, None), (1, None), (2, 2)]),
        (KINDS[1], (True, True, False), [(0, None), (1, None), (2, None)]),
        (KINDS[2], (True, True, True), [(2, 2)]),
        (KINDS[3], (True, True, True), [(1, None), (2, 2)]),
        (KINDS[3], (True, True, False), [(1, 1), (2, None)]),  # the newest block stays where it was said
        (KINDS[3], (True, False, False), [(1, 0), (2, None)]),  # an older one opens the first answer of the window
        (ContextKind("window", 9), (True, True, True), [(0, None), (1, None), (2, 2)]),
    ],
)
def test_what_each_kind_keeps(kind, blocks, expected):
    text, ids, chat = fed(kind, blocks)
    turns = [(USERS[n], ("" if block is None else BLOCK.format(block)) + f"\nreply {n}") for n, block in expected]
    assert text == dialogue(*turns, (USERS[3],))
    last = answer(2, blocks[2])[-9:]  # "reply 2" and the end, a token a character
    assert any(ids[i : i + 9] == last for i in range(len(ids)))
    assert ids != chat.tokenizer.encode(text, add_special_tokens=False)


def test_the_system_message_stays_in_a_window():
    chat = tiny_models.policy(system_prompt="Be brief.", max_user_tokens=96).chat
    chat.kept = ContextKind("window", 1)
    pieces = chat.begin([("user", "one"), ("assistant", "a"), ("user", "two"), ("assistant", "b"), ("user", "three")])
    text = chat.tokenizer.decode(chat.context(pieces), skip_special_tokens=False)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n" + dialogue(("two", "b"), ("three",))


def test_a_window_must_have_room_for_an_older_profile_block_too():
    """Nothing but profile at first, then replies only: the block goes with the window until its end."""
    new, said, limit = 60, 20, 5
    chat = tiny_models.policy(max_user_tokens=said).chat
    chat.kept = ContextKind("window", 2)
    characters = [chat.tokenizer.encode(character, add_special_tokens=False) for character in "<profile>\n- Age: ".ljust(new - 10, "4") + "</profile>"]
    block = [i for ids in characters for i in ids]
    assert (len(block), chat.block_tokens(block)) == (new, new)
    pieces = chat.begin([("user", "word " * 50)])
    for answer in (block, *[[65] * new] * (limit - 2)):
        chat.extend(pieces, answer, "word " * 50)
    needed = len(chat.context(pieces)) + new + chat.glue_tokens()
    chat.check_fits(needed + said, turns=limit, max_new_tokens=new)  # the bound counts a user's answer to the last turn
    with pytest.raises(ConfigError, match=f"3 turns x .* an older profile of {new} = {needed + said} tokens"):
        chat.check_fits(needed - 1, turns=limit, max_new_tokens=new)
    bound = needed + said - new
    chat.check_fits(bound, turns=3, max_new_tokens=new)  # all of which the window holds: no block is older
    with pytest.raises(ConfigError):
        chat.check_fits(bound - 1, turns=3, max_new_tokens=new)


def test_a_block_is_cut_between_tokens_and_no_word_of_the_reply_is_lost(monkeypatch):
    chat = tiny_models.policy().chat
    table = {1: "<profile>", 2: "- A: b\n</prof", 3: "ile>", 4: "ile>\n\n", 5: "ile>Hi", 6: " there"}
    monkeypatch.setattr(chat, "decode", lambda ids: "".join(table[int(i)] for i in ids))
    found = [chat.block_tokens(ids) for ids in ([1, 2, 3, 6], [1, 2, 4, 6], [1, 2, 5, 6], [1, 6], [1, 2])]
    assert found == [3, 3, 2, 0, 0]


def rewriting(kind, **options):
    """A random policy of which every answer's first third counts as its profile block."""
    policy = tiny_models.policy(sharpness=2.0, **options)
    policy.chat.kept = kind
    policy.chat.block_tokens = lambda ids: len(ids) // 3
    return policy


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_T25_evaluation_sees_the_contexts_of_training(kind):
    policy = rewriting(kind)
    settings = {"temperature": 0.7, "max_new_tokens": 20}
    counts = RolloutCounts()
    trajectories = collect(policy, scripts(7)[:3], seeds=range(7), sample_seed=3, counts=counts, **settings)
    turns = [turn for t in trajectories for turn in t.turns]
    grows = [
        a.context_ids.tolist() + a.action_ids.tolist() == b.context_ids.tolist()[: len(a.context_ids) + len(a.action_ids)]
        for t in trajectories
        for a, b in zip(t.turns, t.turns[1:])
    ]
    assert all(grows) is (kind.kind == "append")
    assert kind.kind != "append" or counts.prefilled_tokens <= counts.context_tokens + len(turns)
    agent = PolicyAgent(policy, seed=3, **settings)
    envs = scripts(7)
    for i, env in enumerate(envs):  # as three environments played seven episodes
        env.leave_at = scripts(7)[i % 3].leave_at
    trajectories = collect(policy, scripts(7), seeds=range(7), sample_seed=3, **settings)
    returns, actions = drive(agent, scripts(7), range(7), 3)
    assert returns == [sum(turn.reward for turn in t.turns) for t in trajectories]
    assert actions == [[policy.chat.decode(turn.action_ids) for turn in t.turns] for t in trajectories]
    for turn in turns:  # cached generation on a context that was read anew is a plain forward pass
        ids = torch.tensor([*turn.context_ids, *turn.action_ids])[None]
        pos = torch.arange(len(turn.context_ids), ids.shape[1])
        place = (ids, torch.tensor([ids.shape[1]]), torch.zeros_like(pos), pos, torch.zeros(len(pos)))
        logp = policy.score(*place, temperature=0.7, need=("logp",)).logp
        assert np.abs(logp.detach().numpy() - turn.logp).max() <= 1e-4


def test_where_contexts_grow_by_appending_all_layouts_are_equal(tmp_path):
    wide, plain = tiny_models.policy(sharpness=2.0), tiny_models.policy(sharpness=2.0)
    wide.chat.kept = ContextKind("window", 9)  # no answer of a random policy has a block: nothing is rewritten
    made = []
    for policy in (plain, wide):
        trajectories = collect(policy, scripts(6), seeds=range(6), max_new_tokens=12, max_turns=4)
        for row_per_turn in (False, True):
            batch = make_batch(trajectories, max_turns=4, row_per_turn=row_per_turn)
            learner = Learner(policy, toy_config(tmp_path, 4, ppo={"beta": 0.1}, model={"value_grad": "shared"}))
            with torch.no_grad():
                torch.nn.init.normal_(policy.value_head.outer.weight, std=0.3, generator=torch.Generator().manual_seed(1))
            estimates = learner.estimate(batch, 0)
            policy.lm.zero_grad()
            loss = 0.0
            for micro in micro_batches(batch, range(len(batch.rows)), 2000):
                part = learner.loss(batch, micro, estimates, batch.tokens)[0]
                part.backward()
                loss += float(part.detach())
            gradient = torch.cat([p.grad.flatten() for p in policy.parameters_policy()])
            made.append((len(batch.rows), estimates, loss, gradient))
    assert [rows for rows, *_ in made] == [made[0][0], made[1][0]] * 2
    assert made[1][0] > made[0][0] == 6
    for _, estimates, loss, gradient in made[1:]:
        for name in ("logp_old_A", "values_A", "advantages_A", "returns_A"):
            a, b = getattr(made[0][1], name), getattr(estimates, name)
            assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(a.abs().max())), name
        assert loss == pytest.approx(made[0][2], abs=1e-5)
        assert float((gradient - made[0][3]).abs().max()) <= 1e-5 * float(made[0][3].abs().max())


def siblings(rewards, context, first_id):
    turns = [Turn(np.arange(context), np.array([first_id + i, 99]), np.zeros(2, np.float32), r) for i, r in enumerate(rewards)]
    return dataclasses.replace(turns[0], others=tuple(turns[1:]))


def test_official_batches_have_a_chain_a_sample_and_a_group_a_turn():
    """r = 3 (kept), 1, 0 in the first turn and 2 (kept), 2 in the second."""
    first, second = siblings((3.0, 1.0, 0.0), 4, 10), siblings((2.0, 2.0), 6, 20)
    unscored = dataclasses.replace(second.others[0], valid=False, reward=50.0)
    second = dataclasses.replace(second, others=(*second.others, unscored))
    batch = make_batch([Trajectory((first, second), np.arange(9), True, False)], max_turns=4, per_turn=True)
    assert batch.turn_A[batch.starts_C].tolist() == [0, 1, 0, 0, 1]
    assert batch.fraction_A[batch.starts_C].tolist() == [0, 0.25, 0, 0, 0.25]
    assert batch.group_C.tolist() == [0, 1, 0, 0, 1]
    assert [row.tolist()[-2:] for row in batch.rows] == [[10, 99], [20, 99], [11, 99], [12, 99], [21, 99]]
    assert not batch.bootstrapped_C.any()
    arrays = (batch.reward_A, batch.segment_A, batch.starts_C, batch.group_C)
    for_each = [2.5, 2.5, 0, 0, -0.5, -0.5, -2, -2, 0, 0]
    assert group_advantages("rloo", *arrays)[0].tolist() == pytest.approx(for_each)
    grpo = np.array([5 / 3, -1 / 3, -4 / 3]) / np.std([3, 1, 0])
    expected = np.repeat([grpo[0], 0, grpo[1], grpo[2], 0], 2)
    assert group_advantages("grpo", *arrays)[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_official_samples_are_the_chain_with_gamma_turn_0():
    policy = tiny_models.policy(sharpness=2.0)
    trajectories = collect(policy, scripts(5), seeds=range(5), max_new_tokens=12, max_turns=4)
    chained, apart = (make_batch(trajectories, max_turns=4, per_turn=per_turn) for per_turn in (False, True))
    assert len(apart.rows) == len(chained.rows)  # contexts that only grow still share a row
    values = torch.sin(torch.arange(chained.tokens, dtype=torch.float32))
    discounts = {"gamma_token": 0.98, "gamma_turn": 0.0, "lam_token": 0.9, "lam_turn": 0.8}
    a, b = (
        chain_gae(batch.reward_A, values, batch.segment_A, batch.starts_C, torch.full((len(batch.starts_C),), 5.0), **discounts)[0]
        for batch in (chained, apart)
    )
    assert torch.equal(a, b)


def make_env(turns=3):
    return gym.make("rlpa_env:RLPA-v0", max_episode_steps=turns, max_turns=turns)


def test_the_dialogue_goes_on_with_the_best_of_its_samples():
    policy = tiny_models.policy(context=2048, max_user_tokens=96)
    policy.chat.kept = ContextKind("latest")
    someone = make_env()
    someone.reset(seed=5)
    points = [(point.slot, point.value) for point in someone.unwrapped.profile.points]
    texts = [format_action(points[:n], "Oh, tell me more?") for n in (1, 3, 2)]  # the second is always paid best
    spoken = iter(texts * 3)
    policy.chat.decode = lambda ids: next(spoken)
    policy.chat.block_tokens = lambda ids: 2
    (trajectory,) = collect(policy, [make_env()], seeds=[5], max_new_tokens=8, max_turns=3, samples=3)
    answers = [text for role, text in trajectory.messages if role == "assistant"]
    assert [len(turn.others) for turn in trajectory.turns] == [2, 2, 2]
    assert all(turn.reward >= max(other.reward for other in turn.others) for turn in trajectory.turns)
    assert answers == [texts[1]] * 3
    env = make_env()
    _, info = env.reset(seed=5)
    for turn, said in zip(trajectory.turns, answers, strict=True):  # as if nothing else had ever been tried
        _, reward, _, _, info = env.step(said)
        assert reward == turn.reward
        assert all(np.array_equal(other.context_ids, turn.context_ids) for other in turn.others)
    assert tuple((m["role"], m["content"]) for m in info["messages"]) == trajectory.messages
    drawn = {tuple(sample.action_ids) for sample in (trajectory.turns[0], *trajectory.turns[0].others)}
    assert len(drawn) == 3  # each sample has a stream of its own


def now(kind, said):
    """Each action pays at once: 'a' is right for people who open with g, 'b' for h."""
    return float(said[-1] == "ab"[kind]), "u"


@pytest.mark.parametrize(("algo", "samples"), [("ppo", 1), ("rloo", 4), ("grpo", 2)])
def test_official_mode_learns_what_pays_at_once(tmp_path, monkeypatch, algo, samples):
    monkeypatch.setattr(pool, "fork", copy.deepcopy)
    monkeypatch.setattr(pool, "restore", lambda env, state: env.__dict__.update(copy.deepcopy(state.__dict__)))
    rules = {"ppo": {"epochs": 2, "minibatches": 2}, "rollout": {"dialogues": 32, "samples": samples}}
    trainer = Trainer(
        toy_config(tmp_path, 2, mode="official", algo=algo, **rules), char_policy("ab"), lambda: ToyEnv(now, 2, openings="gh"), quiet=True
    )
    figures = [trainer.one_iteration()["return"] for _ in range(40)]
    assert np.mean(figures[-5:]) > 1.9
    plain = collect(trainer.policy, trainer.envs, seeds=range(50), max_new_tokens=1, max_turns=2)  # not the best of several
    assert np.mean([sum(turn.reward for turn in t.turns) for t in plain]) > 1.8


def test_an_official_run_leaves_what_evaluation_needs(tmp_path):
    config = toy_config(tmp_path, 3, mode="official", algo="rloo", iterations=1, keep_rollouts=True,
                        rollout={"dialogues": 2, "concurrent": 2, "samples": 2, "max_new_tokens": 10})  # fmt: skip
    policy = tiny_models.policy(context=2048, max_user_tokens=96)
    policy.chat.kept = config.context
    trainer = Trainer(config, policy, make_env, quiet=True)
    trainer.run()
    folder = trainer.last / "policy"
    assert json.loads((folder / "context.json").read_text()) == {"kind": "latest", "window": 4}
    assert policy_agent(folder).chat.kept == ContextKind("latest")
    kept = load_rollout(config.out)
    assert len(kept.batch.starts_C) == 2 * sum(len(line["turns"]) for line in kept.episodes)
    assert [len(turn["others"]) for turn in kept.episodes[0]["turns"]] == [1] * len(kept.episodes[0]["turns"])
    lines = token_lines(kept, 1, config, policy.tokenizer)
    own = [i for i, owner in enumerate(kept.batch.episode_C) if owner == 1]
    assert sum(line.mask for line in lines) == int(torch.isin(kept.batch.chain_A, torch.tensor(own)).sum())


def test_the_kind_is_kept_beside_the_policy(tmp_path):
    assert read_context(tmp_path) == ContextKind()
    save_context(tmp_path, ContextKind())
    assert not list(tmp_path.iterdir())  # append is what a folder without the file means
    save_context(tmp_path, ContextKind("window", 7))
    assert read_context(tmp_path) == ContextKind("window", 7)
    (tmp_path / "context.json").write_text('{"kind": "window", "width": 3}')
    with pytest.raises(ConfigError, match="width"):
        read_context(tmp_path)


def test_which_context_is_usual_and_how_many_turns_it_holds(tmp_path):
    assert toy_config(tmp_path, 3).context.kind == "append"
    assert toy_config(tmp_path, 3, mode="official").context.kind == "latest"
    assert toy_config(tmp_path, 3, rollout={"env_id": "RLPA-Long-v0"}).context == ContextKind("window", 4)
    assert toy_config(tmp_path, 3, rollout={"env_id": "RLPA-Long-v0", "context": "append"}).context.kind == "append"
    assert [kind.turns(70) for kind in KINDS] == [70, 70, 2, 3]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rollout": {"samples": 2}}, r"rollout\.samples: expected 1 with mode='mdp'"),
        ({"mode": "official", "algo": "rloo"}, r"rollout\.samples: expected at least 2 with mode='official' and algo='rloo'; got 1"),
        ({"mode": "official", "rollout": {"samples": 2, "shuffle_rewards": True}}, "shuffle_rewards"),
        ({"mode": "bandit"}, "official"),
    ],
)
def test_impossible_modes_are_refused(tmp_path, changes, expected):
    with pytest.raises(ConfigError, match=expected):
        toy_config(tmp_path, 3, **changes)
    with pytest.raises(ConfigError, match=r"rollout\.context"):
        RolloutConfig(context="all")
