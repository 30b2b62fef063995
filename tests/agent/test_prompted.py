"""Prompting baselines on a policy of our own: it is asked exactly what a served model would be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_models
import torch

from rlpa_agent import cli
from rlpa_agent.contexts import ContextKind
from rlpa_agent.evaluate import PolicyAgent
from rlpa_agent.prompted import PromptedPolicy
from rlpa_env import ConfigError, ContextError
from rlpa_env.llm import prompt
from rlpa_env.prompting import METHODS

torch.set_num_threads(1)


def encoder(texts):
    """Letter counts as unit vectors."""
    counts = np.asarray([[1.0 + text.count(letter) for letter in "abcdefgh"] for text in texts])
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def dialogue(exchanges, word="bread"):
    messages = [{"role": "system", "content": "the task"}, {"role": "user", "content": f"Hello {word}"}]
    for i in range(exchanges):
        messages += [{"role": "assistant", "content": f"reply {i}"}, {"role": "user", "content": f"message {i}"}]
    return messages


def prompted(method, system_prompt=None, tokens=6):
    policy = tiny_models.policy(context=4096, system_prompt=system_prompt, max_user_tokens=12)
    made = PromptedPolicy(PolicyAgent(policy, seed=3, max_new_tokens=tokens), method, encoder)
    heard = []
    answer = made._agent.act_batch

    def listening(batch, streams=None):
        heard.append(json.loads(json.dumps(list(batch))))
        return answer(batch, streams)

    made._agent.act_batch = listening
    return made, heard


def test_base_is_the_policy_itself():
    policy = tiny_models.policy(system_prompt=None)
    batch = [dialogue(0), dialogue(1)]
    agent = PolicyAgent(policy, seed=3, max_new_tokens=8)
    assert PromptedPolicy(agent, "base").act_batch(batch) == PolicyAgent(policy, seed=3, max_new_tokens=8).act_batch(batch)


def test_a_prompted_dialogue_without_room_leaves_the_others_alone():
    policy = tiny_models.policy(context=400, system_prompt=None)
    made, alone = (PromptedPolicy(PolicyAgent(policy, seed=3, temperature=0.0, max_new_tokens=6), "self-critic") for _ in range(2))
    long = dialogue(0, "bread " * 400)
    full, answered = made.act_batch([long, dialogue(0)])
    assert isinstance(full, ContextError)
    assert answered == alone.act(dialogue(0))
    assert made.count_tokens(answered) == alone.count_tokens(answered)
    with pytest.raises(ContextError):
        made.act(long)


def test_self_critic_asks_three_times_for_all_dialogues_together():
    made, heard = prompted("self-critic")
    batch = [dialogue(0), dialogue(1, "wool")]
    texts = made.act_batch(batch)
    assert [len(asked) for asked in heard] == [2, 2, 2]
    for i, messages in enumerate(batch):
        first, second, third = (asked[i] for asked in heard)
        assert first == messages
        assert second[:-2] == first
        assert second[-1] == {"role": "user", "content": prompt("agent-critique-v1", "en")}
        assert third[:-2] == second
        assert third[-1] == {"role": "user", "content": prompt("agent-rewrite-v1", "en")}
    again, _ = prompted("self-critic")
    assert again.act_batch(batch) == texts
    spent = [sum(made._agent.count_tokens(asked[i][-2]["content"]) for asked in heard[1:]) for i in range(2)]  # draft, critique
    assert [made.count_tokens(text) for text in texts] == [own + made._agent.count_tokens(text) for own, text in zip(spent, texts)]
    assert made.count_tokens("I bake.") == len(made._agent.policy.tokenizer.encode("I bake."))


def test_reminder_is_not_cut_with_the_users_message():
    made, heard = prompted("reminder")
    made.act(dialogue(0))
    said = heard[0][0][-1]["content"]
    assert said == "Hello bread\n\n" + prompt("agent-reminder-v1", "en")
    ids = made._agent.chat.encode_user(said)
    assert made._agent.chat.tokenizer.decode(ids) == said


@pytest.mark.parametrize("constant", [None, "", "be kind"])
def test_the_examples_of_cot_reach_a_policy_with_a_constant_system_prompt(constant):
    made, heard = prompted("cot", constant)
    made.act(dialogue(0))
    assert heard[0][0][0]["content"].endswith(prompt("agent-examples-v1", "en"))
    fed = made._agent.chat.tokenizer.decode(made._agent.chat.opening(heard[0][0]))
    assert prompt("agent-examples-v1", "en") in fed


def test_rag_asks_with_the_nearest_exchanges():
    made, heard = prompted("rag")
    made.act(dialogue(8))
    assert len(heard[0][0]) == 1 + 2 * 5 + 1
    assert heard[0][0][-1]["content"] == "message 7"


def test_an_unknown_method_is_an_error():
    with pytest.raises(ConfigError, match="prompting method"):
        prompted("beg")


def test_eval_scores_a_policy_with_and_without_prompting(tmp_path):
    options = ["--users", "1", "--max-new-tokens", "4", "--out", str(tmp_path / "eval")]
    cli.main(["eval", "--prompting", "reminder", "cot", *options])
    rows = json.loads((tmp_path / "eval" / "results.json").read_text())
    rows = rows if isinstance(rows, list) else rows["rows"]
    assert {"shipped", "shipped, reminder", "shipped, cot"} <= {row["agent"] for row in rows}
    assert set(METHODS) == {"base", "reminder", "self-critic", "cot", "rag"}  # those that the flag lists


def test_equal_completions_of_a_batch_have_each_their_own_tokens_however_often_they_are_asked_for():
    made, _ = prompted("self-critic")
    drafts = [["a long draft with many words in it", "short"]]
    made._agent.act_batch = lambda batch, _: drafts.pop() if drafts else ["Hi."] * len(batch)
    first, second = made.act_batch([dialogue(0), dialogue(0)])
    assert first == second
    counts = [made.count_tokens(second), made.count_tokens(first), made.count_tokens(second), made.count_tokens(first)]
    assert counts[1] > counts[0] > 0
    assert counts[2:] == counts[:2]
    drafts.append(["a", "b"])
    made.act_batch([dialogue(1), dialogue(1)])
    assert made.count_tokens(first) == counts[1]  # nor does the next batch change it


@pytest.mark.parametrize(("method", "kind"), [("reminder", "latest"), ("self-critic", "append"), ("rag", "append")])
def test_what_a_method_shows_again_is_not_left_out_of_a_rewritten_context(method, kind):
    policy = tiny_models.policy(context=4096, system_prompt=None, max_user_tokens=12)
    policy.chat.kept = ContextKind("latest")
    assert PromptedPolicy(PolicyAgent(policy, max_new_tokens=6), method, encoder)._agent.chat.kept.kind == kind
