"""The prompting baselines: what each of them sends, and what becomes of the answer."""

import json
from concurrent.futures import Future

import gymnasium as gym
import numpy as np
import pytest
from chat_servers import serving

from rlpa_env import ChatClient, ConfigError, ModelError, format_action
from rlpa_env.cli import main
from rlpa_env.llm import prompt
from rlpa_env.prompting import METHODS, PromptingAgent

GOOD = format_action([("Age", "34")], "Hi there.")


class Heard(ChatClient):
    """A client that keeps what it was sent; its answers count up."""

    def __init__(self, answer=GOOD):
        super().__init__(base_url="http://127.0.0.1:9/v1", model="m")
        self.answer, self.seen = answer, []

    def begin(self, messages, **options):
        self.seen.append(json.loads(json.dumps(list(messages))))
        future = Future()
        if isinstance(self.answer, Exception):
            future.set_exception(self.answer)
        else:
            future.set_result(self.answer)
        return future


def dialogue(exchanges):
    messages = [{"role": "system", "content": "the task"}, {"role": "user", "content": "Hello"}]
    for i in range(exchanges):
        messages += [
            {"role": "assistant", "content": format_action([], f"reply {i}")},
            {"role": "user", "content": f"message {i}"},
        ]
    return messages


def test_base_sends_the_dialogue_as_it_is():
    client = Heard()
    assert PromptingAgent(client).act(dialogue(2)) == GOOD
    assert client.seen == [dialogue(2)]


def test_reminder_stands_after_the_newest_message_and_changes_nothing_else():
    client, messages = Heard(), dialogue(2)
    PromptingAgent(client, "reminder").act(messages)
    assert client.seen[0][:-1] == messages[:-1]
    assert client.seen[0][-1]["content"] == "message 1\n\n" + prompt("agent-reminder-v1", "en")
    assert messages == dialogue(2)


def test_self_critic_answers_criticises_and_rewrites():
    client = Heard()
    PromptingAgent(client, "self-critic").act(dialogue(1))
    assert [len(messages) for messages in client.seen] == [4, 6, 8]
    assert client.seen[2][4] == {"role": "assistant", "content": GOOD}
    assert client.seen[2][5]["content"] == prompt("agent-critique-v1", "en")
    assert client.seen[2][7]["content"] == prompt("agent-rewrite-v1", "en")


@pytest.mark.parametrize("thought", ["<think>hm, 34?</think>\n", "<THINK>\nlong\n</THINK>", "<think>never closed "])
def test_the_thought_never_reaches_the_action(thought):
    client = Heard(thought + GOOD)
    assert PromptingAgent(client, "cot").act(dialogue(0)) == GOOD
    assert client.seen[0][0]["content"].count("Message:") == 5


def test_rag_keeps_the_five_nearest_exchanges_in_order():
    def encoder(texts):  # direction of exchange i: near the last text if i is even
        return np.array([[1.0, 0.0] if i % 2 == 0 or i == len(texts) - 1 else [0.0, 1.0] for i in range(len(texts))])

    client = Heard()
    PromptingAgent(client, "rag", encoder).act(dialogue(9))
    said = [message["content"] for message in client.seen[0] if message["role"] == "user"]
    assert said == ["Hello", "message 1", "message 3", "message 5", "message 7", "message 8"]
    client = Heard()
    PromptingAgent(client, "rag", encoder).act(dialogue(5))
    assert client.seen == [dialogue(5)]  # nothing to leave out


def test_batches_are_in_flight_together_and_failures_are_raised():
    client = Heard()
    assert PromptingAgent(client).act_batch([dialogue(1), dialogue(2)]) == [GOOD, GOOD]
    with pytest.raises(ModelError, match="down"):
        PromptingAgent(Heard(ModelError("down"))).act_batch([dialogue(1)])
    with pytest.raises(ConfigError, match="Did you mean 'reminder'"):
        PromptingAgent(client, "remnder")


@pytest.mark.parametrize("method", METHODS)
def test_each_method_holds_a_whole_dialogue(method):
    agent = PromptingAgent(Heard(), method, encoder=lambda texts: np.eye(len(texts)))
    env = gym.make("RLPA-v0")
    _, info = env.reset(seed=0)
    for _ in range(10):
        *_, terminated, truncated, info = env.step(agent.act(info["messages"]))
        if terminated or truncated:
            break
    assert info["parse_error"] == ""


def test_the_command_line_prompts_a_served_model(tmp_path, capsys):
    with serving() as url:
        where = ["--base-url", url, "--model", "m"]
        main(["eval", "--agent", "base", "--users", "2", "--workers", "1", "--out", str(tmp_path), *where])
    assert {row["agent"] for row in json.loads((tmp_path / "results.json").read_text())} == {"base", "prior", "oracle"}
    with pytest.raises(SystemExit, match="--base-url"):
        main(["eval", "--agent", "base"])
