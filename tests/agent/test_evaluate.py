"""An evaluated policy says what it says in training, however its dialogues are batched."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from tiny_models import Script

from rlpa_agent.evaluate import PolicyAgent, policy_agent
from rlpa_agent.generation import Qwen2Decoder
from rlpa_agent.prompted import PromptedPolicy
from rlpa_agent.rollout import RolloutCounts, collect
from rlpa_env import ContextError
from rlpa_env.evaluate import Setting
from rlpa_env.evaluate import collect as evaluated
from rlpa_env.wrappers import read_episodes

torch.set_num_threads(1)

LINES = ("Well, I bake.", "é 😀?", "My sister is the nurse in the family", "No.")


def drive(agent, envs, seeds, batch):
    """Play episodes as an evaluation does: so many at once, a finished one replaced by the next. Returns, actions."""
    waiting = list(zip(envs, seeds))
    running, order, totals = [], [], {}
    while waiting or running:
        while waiting and len(running) < batch:
            env, seed = waiting.pop(0)
            _, info = env.reset(seed=seed)
            running.append([env, info["messages"]])
            order.append(env)
            totals[id(env)] = 0.0
        answers = agent.act_batch([messages for _, messages in running])
        still = []
        for run, answer in zip(running, answers):
            if isinstance(answer, ContextError):
                continue
            _, reward, terminated, truncated, info = run[0].step(answer)
            totals[id(run[0])] += reward
            run[1] = info["messages"]
            if not (terminated or truncated):
                still.append(run)
        running = still
    return [totals[id(env)] for env in order], [env.actions for env in order]


def scripts(n):
    leave = [None, 1, 0, 2, None]
    return [
        Script(LINES, leave_at=leave[i % 5], turns=4, pay=lambda text, turn: 0.1 * len(text) + turn)
        for i in range(n)
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_T25_evaluation_gives_the_returns_of_the_training_rollout(temperature, batch):
    policy = tiny_models.policy(sharpness=2.0)
    settings = {"temperature": temperature, "max_new_tokens": 20}
    trajectories = collect(policy, scripts(7), seeds=range(7), sample_seed=3, **settings)
    trained = [sum(turn.reward for turn in trajectory.turns) for trajectory in trajectories]
    agent = PolicyAgent(policy, seed=3, **settings)
    returns, actions = drive(agent, scripts(7), range(7), batch)
    assert returns == trained
    assert actions == [
        [policy.chat.decode(t.action_ids) for t in trajectory.turns] for trajectory in trajectories
    ]
    assert temperature == 0.0 or len({tuple(a[:1]) for a in actions}) > 3  # every dialogue has its own stream


def test_keys_and_values_are_reused(monkeypatch):
    policy = tiny_models.policy()
    agent = PolicyAgent(policy, max_new_tokens=10, temperature=0.0)
    messages = [{"role": "user", "content": "Hello " * 20}]
    fed = []
    messages.append({"role": "assistant", "content": agent.act(messages)})
    prefill = agent._cache.prefill
    monkeypatch.setattr(
        agent._cache, "prefill", lambda rows, chunks: fed.append(len(chunks[0])) or prefill(rows, chunks)
    )
    messages.append({"role": "user", "content": "No."})
    agent.act(messages)
    glue = policy.chat.glue_tokens()
    assert fed == [fed[0]]
    assert fed[0] <= 1 + glue + len(policy.chat.encode_user("No."))


def fed_to(agent, monkeypatch):
    """Numbers of tokens that an agent's cache is given from now on, a list for each call."""
    fed = []
    prefill = Qwen2Decoder.prefill
    monkeypatch.setattr(Qwen2Decoder, "prefill", lambda self, rows, chunks: fed.append([len(c) for c in chunks]) or prefill(self, rows, chunks))
    return fed


def alone(policy, messages):
    """What a policy says to a dialogue that is all it has ever read."""
    return PolicyAgent(policy, max_new_tokens=10, temperature=0.0).act(messages)


def test_a_dialogue_that_differs_at_its_end_is_read_from_there(monkeypatch):
    """A note behind the newest message, as of the reminder, makes every turn a dialogue of its own; also in another order."""
    policy = tiny_models.policy(context=1024, system_prompt=None)
    agent = PolicyAgent(policy, max_new_tokens=10, temperature=0.0)
    dialogues = [[{"role": "system", "content": "be kind " * 20}, {"role": "user", "content": f"{word} " * 20}] for word in ("I bake", "My sister")]
    fed = fed_to(agent, monkeypatch)
    for turn in range(3):
        asked = [[*messages[:-1], {"role": "user", "content": messages[-1]["content"] + " Mind what I told you."}] for messages in dialogues]
        fed.clear()
        answers = agent.act_batch(asked)
        if turn:
            assert max(fed[-1]) < 60  # answer, message and note; the dialogue has more than 150
        now = list(fed)
        assert answers == [alone(policy, messages) for messages in asked]
        fed[:] = now
        dialogues = [[*m, {"role": "assistant", "content": a}, {"role": "user", "content": f"{turn}?"}] for m, a in zip(dialogues, answers)][::-1]
    assert agent._cache.lengths_R.max() > 150


def test_what_new_dialogues_begin_with_is_read_once(monkeypatch):
    policy = tiny_models.policy(context=1024, system_prompt=None)
    agent = PolicyAgent(policy, max_new_tokens=10, temperature=0.0)
    dialogues = [[{"role": "system", "content": "be kind " * 20}, {"role": "user", "content": line}] for line in ("Hello", "Hello you", "No.")]
    fed = fed_to(agent, monkeypatch)
    answers = agent.act_batch(dialogues)
    assert [len(chunks) for chunks in fed] == [1, 3]
    assert fed[0][0] > 40
    assert max(fed[1]) < 20
    assert answers == [alone(policy, messages) for messages in dialogues]
    same = [dialogues[0], dialogues[0]]
    assert PolicyAgent(policy, max_new_tokens=10, temperature=0.0).act_batch(same) == [answers[0], answers[0]]


def test_rows_whose_answer_is_over_are_not_stepped_on(monkeypatch):
    """Of eight rows no more than one at a time is stepped to no purpose, in every turn, and nobody's dialogue is lost by it."""
    policy = tiny_models.policy(sharpness=2.0)
    policy.chat.end_ids = tuple({*policy.chat.end_ids, *range(0, 500, 9)})  # so that answers differ in length
    agent, alone = (PolicyAgent(policy, max_new_tokens=24, temperature=1.0, seed=5) for _ in range(2))
    histories = [[{"role": "user", "content": line * (1 + i)}] for i, line in enumerate((*LINES, *LINES))]
    exchanged = []
    exchange = PolicyAgent._exchange
    monkeypatch.setattr(PolicyAgent, "_exchange", lambda self, a, b: exchanged.append((a, b)) or exchange(self, a, b))
    stepped, step = [], Qwen2Decoder.step
    monkeypatch.setattr(Qwen2Decoder, "step", lambda self, ids, live: stepped.append((len(ids), int(live.sum()))) or step(self, ids, live))
    for _turn in range(3):
        stepped.clear()
        answers = agent.act_batch(histories)
        assert stepped[0][0] > stepped[-1][0]
        assert all(rows - live <= rows // 8 for rows, live in stepped)
        for i, (messages, answer) in enumerate(zip(histories, answers, strict=True)):
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"{i}?"}]
    assert len(exchanged) > 5
    for messages in histories:
        heard = []
        for message in messages[:-1]:
            heard.append(message)
            if message["role"] == "user":
                said = alone.act(heard)
            else:
                assert message["content"] == said


def test_a_history_it_never_answered_is_read_from_its_text():
    policy = tiny_models.policy()
    texts = ["Hello", tiny_models.ANSWER, "I bake."]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    answer = PolicyAgent(policy, max_new_tokens=10, temperature=0.0).act(messages)
    ids = torch.tensor(policy.chat.opening(messages))
    expected = []
    with torch.no_grad():
        for _ in range(10):
            row = torch.cat([ids, torch.tensor(expected, dtype=torch.int64)])
            logits = policy.lm(input_ids=row[None]).logits[0, -1].masked_fill(policy.banned_V, -torch.inf)
            expected.append(int(logits.argmax()))
            if expected[-1] in policy.chat.end_ids:
                break
    assert answer == policy.chat.decode(expected)


def test_changed_weights_are_noticed():
    policy = tiny_models.policy()
    agent = PolicyAgent(policy, max_new_tokens=12, temperature=0.0)
    messages = [{"role": "user", "content": "Hello"}]
    before = agent.act(messages)
    optimizer = torch.optim.AdamW(policy.lm.parameters(), lr=0.3, fused=True)
    for parameter in policy.lm.parameters():
        parameter.grad = torch.sin(torch.arange(parameter.numel(), dtype=torch.float32)).view(parameter.shape)
    optimizer.step()
    after = agent.act(messages)
    assert after == PolicyAgent(policy, max_new_tokens=12, temperature=0.0).act(messages)
    assert after != before


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_T25_evaluation_ends_a_dialogue_whose_context_is_full_where_training_does(batch):
    policy = tiny_models.policy(sharpness=2.0, context=128)
    settings, counts = {"temperature": 0.7, "max_new_tokens": 20}, RolloutCounts()
    trajectories = collect(policy, scripts(7), seeds=range(7), sample_seed=3, counts=counts, **settings)
    assert {t.stop_reason for t in trajectories} == {"context", "user_left"}
    assert counts.context_stops > 2
    returns, actions = drive(PolicyAgent(policy, seed=3, **settings), scripts(7), range(7), batch)
    assert returns == [sum(turn.reward for turn in t.turns) for t in trajectories]
    assert actions == [[policy.chat.decode(turn.action_ids) for turn in t.turns] for t in trajectories]


def test_there_is_a_whole_answer_or_none_and_others_go_on():
    policy = tiny_models.policy(context=64)
    agent = PolicyAgent(policy, max_new_tokens=8, temperature=0.0)
    long, short = [{"role": "user", "content": "word " * 100}], [{"role": "user", "content": "Hello"}]
    answers = agent.act_batch([long, short])
    assert isinstance(answers[0], ContextError)
    assert answers[1] == PolicyAgent(policy, max_new_tokens=8, temperature=0.0).act(short)
    with pytest.raises(ContextError, match="answer of 8; the model has 64"):
        agent.act(long)
    fed = len(policy.chat.opening(short))
    just = 64 - fed - policy.chat.glue_tokens()  # the room that a rollout asks for
    assert PolicyAgent(policy, max_new_tokens=just).act(short)
    with pytest.raises(ContextError, match=f"room for {fed} tokens"):
        PolicyAgent(policy, max_new_tokens=just + 1).act(short)


def test_a_saved_policy_answers_the_same(tmp_path):
    policy = tiny_models.policy(temperature=0.5)
    policy.save(tmp_path)
    messages = [{"role": "user", "content": "Hello"}]
    agent = policy_agent(tmp_path, seed=4, max_new_tokens=12)
    assert agent.act(messages) == PolicyAgent(policy, seed=4, max_new_tokens=12).act(messages)
    assert agent.temperature == 0.5
    assert agent.count_tokens("<|im_end|>") > 1


def test_an_evaluation_tells_policies_by_their_weights_and_how_they_are_asked():
    policy = tiny_models.policy()
    agent = PolicyAgent(policy, temperature=0.0, max_new_tokens=8)
    own = agent.identity
    assert own == PolicyAgent(policy, seed=4, temperature=0.0, max_new_tokens=8).identity  # more seeds are not another policy
    assert own != PolicyAgent(policy, temperature=0.5, max_new_tokens=8).identity
    assert own != PolicyAgent(policy, temperature=0.0, max_new_tokens=9).identity
    prompted = PromptedPolicy(agent, "reminder")
    assert prompted.identity["method"] == "reminder"
    assert prompted.identity["weights"] == own["weights"]
    with torch.no_grad():
        next(iter(policy.lm.parameters())).view(-1)[-1] += 1.0  # the last weight of a tensor, far from its head
    assert own != agent.identity


@pytest.mark.parametrize("make", [lambda agent: agent, lambda agent: PromptedPolicy(agent, "self-critic")], ids=["plain", "self-critic"])
def test_a_sampled_evaluation_that_is_resumed_or_extended_gives_what_one_in_one_go_gives(tmp_path, make):
    """Each episode samples from a stream of its own: not from that of its place among those played today."""
    policy = tiny_models.policy(context=4096, system_prompt=None, max_user_tokens=12)
    kwargs = (("max_episode_steps", 2), ("max_turns", 2))

    def said(setting, out):
        records = evaluated({"policy": make(PolicyAgent(policy, seed=3, temperature=1.0, max_new_tokens=6))}, setting, out, quiet=True)["policy"]
        return {(r["profile"], r["seed"]): [m["content"] for m in r["messages"] if m["role"] == "assistant"] for r in records}

    whole = said(Setting(users=3, seeds=(0, 1), env_kwargs=kwargs), None)
    some = said(Setting(users=2, seeds=(1,), env_kwargs=kwargs), tmp_path)
    assert len({tuple(texts) for texts in whole.values()}) == 6
    assert all(whole[episode] == texts for episode, texts in some.items())
    assert said(Setting(users=3, seeds=(0, 1), env_kwargs=kwargs), tmp_path) == whole


def test_another_sampling_seed_is_played_anew(tmp_path):
    policy = tiny_models.policy(system_prompt=None)
    setting = Setting(users=1, env_kwargs=(("max_episode_steps", 1), ("max_turns", 1)))
    for seed in (3, 4, 3):
        evaluated({"policy": PolicyAgent(policy, seed=seed, temperature=1.0, max_new_tokens=6)}, setting, tmp_path, quiet=True)
    assert [line["identity"]["seed"] for line in read_episodes(tmp_path / "episodes.jsonl")] == [3, 4]  # the third was kept
