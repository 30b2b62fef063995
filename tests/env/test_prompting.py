"""The prompting baselines: what each of them sends, and what becomes of the answer."""

import json
from concurrent.futures import Future
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from chat_servers import serving

from rlpa_env import ChatClient, ChatConfig, ConfigError, ModelError, format_action, parse_action
from rlpa_env.cli import llm_settings, main
from rlpa_env.llm import prompt
from rlpa_env.profiles import canonical_slot
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


def test_the_worked_examples_are_in_the_language_of_the_prompts_and_in_the_form_that_is_read():
    for language in ("en", "zh"):
        client = Heard()
        client.config = replace(client.config, language=language)
        PromptingAgent(client, "cot").act(dialogue(1))
        system = client.seen[0][0]["content"]
        assert system == "the task\n\n" + prompt("agent-examples-v1", language)
        answers = [text.split("</think>")[-1] for text in system.split("</response>")[:-1]]
        read = [parse_action(answer + "</response>") for answer in answers]
        assert [(action.error, len(action.profile)) for action in read] == [("", points) for points in (1, 2, 1, 1, 0)]
        assert all(canonical_slot(point.slot) == point.slot for action in read for point in action.profile)


def test_self_critic_answers_criticises_and_rewrites():
    client = Heard()
    PromptingAgent(client, "self-critic").act(dialogue(1))
    assert [len(messages) for messages in client.seen] == [4, 6, 8]
    assert client.seen[2][4] == {"role": "assistant", "content": GOOD}
    assert client.seen[2][5]["content"] == prompt("agent-critique-v1", "en")
    assert client.seen[2][7]["content"] == prompt("agent-rewrite-v1", "en")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "thought",
    ["<think>hm, 34?</think>\n", "<THINK>\nlong\n</THINK>", "<think>never closed ", "34, I think.\n</think>\n\n",
     "<think>First <profile>, then <response>.</think>", "I write <profile> first.</think>", "<think>a</think>\n<think>b</think>\n"],
)  # fmt: skip
def test_the_thought_never_reaches_the_action(thought, method):
    client = Heard(thought + GOOD)
    assert PromptingAgent(client, method, encoder=lambda texts: np.eye(len(texts))).act(dialogue(0)) == GOOD
    assert all(message["content"] == GOOD for messages in client.seen for message in messages if message["role"] == "assistant")


def test_a_thought_between_the_blocks_is_cut_and_a_closing_tag_in_a_reply_is_none():
    between = GOOD.replace("<response>", "<think>Now the reply.</think><response>")
    assert PromptingAgent(Heard(between), "cot").act(dialogue(0)) == GOOD
    about = GOOD.replace("Hi there.", "You wrote </think>?")
    assert PromptingAgent(Heard(about)).act(dialogue(0)) == about


def test_cot_shows_five_worked_examples():
    client = Heard()
    PromptingAgent(client, "cot").act(dialogue(0))
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


EVERY = {
    "base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "K", "temperature": 0.0, "max_tokens": 9, "concurrency": 2, "timeout": 5.0,
    "retries": 0, "backoff": 0.1, "longest_wait": 1.0, "breaker": 3, "cooldown": 2.0, "price": (0.15, 0.6), "budget": 5.0, "mode": "record",
    "store": "runs/store", "language": "zh", "seeds": True, "extra_body": {"top_k": 1},
}  # fmt: skip


def typed(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else json.dumps(value) if isinstance(value, (dict, bool)) else str(value)


def test_every_setting_of_a_model_can_be_typed_and_has_the_type_of_its_field():
    found = llm_settings(tuple(f"{key}={typed(value)}" for key, value in EVERY.items()))
    assert {key: found[key] for key in EVERY} == EVERY
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in EVERY.items()}
    assert ChatConfig.from_mapping(found)
    with pytest.raises(ConfigError, match=r"--llm KEY=VALUE: expected one of 'base_url', .*Did you mean 'temperature'"):
        llm_settings(("temprature=1",))
    for wrong in ("concurrency=1.5", "temperature", "price=1", "seeds=1", "extra_body={"):
        with pytest.raises(ConfigError, match=rf"--llm {wrong.partition('=')[0]}: expected .* type"):
            llm_settings((wrong,))


def test_the_command_line_hands_settings_matcher_and_references_on(monkeypatch):
    seen = []

    def instead(agents, **options):
        seen.append((agents, options))
        raise ConfigError("enough")

    monkeypatch.setattr("rlpa_env.cli.evaluate", instead)
    where = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--llm", "temperature=0", "--llm", "price=1,2", "--llm", "budget=5"]
    llm = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "OPENAI_API_KEY", "temperature": 0.0, "price": (1.0, 2.0), "budget": 5.0}
    for more in (["--env", "RLPA-LLM-v0", "--agent", "base"], ["--matcher", "llm", "--references", "none"], ["--matcher", "embedding"], []):
        with pytest.raises(SystemExit, match="enough"):
            main(["eval", *where, *more])
    assert seen[0][0]["base"].client.config == ChatConfig.from_mapping(llm)
    assert [options["env_kwargs"] for _, options in seen] == [
        {"llm": llm}, {"matcher": "llm", "llm": llm},
        {"matcher": "embedding", "embedding_model": "sentence-transformers/all-MiniLM-L6-v2"}, {},
    ]  # fmt: skip
    assert [options["references"] for _, options in seen] == ["auto", "none", "auto", "auto"]
    with pytest.raises(SystemExit, match="matcher llm: expected --base-url"):
        main(["eval", "--matcher", "llm"])
    with pytest.raises(SystemExit, match="Did you mean 'budget'"):
        main(["eval", "--llm", "budgt=1"])


def test_play_talks_with_a_served_user_and_says_why_it_ends():
    where = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--llm", "retries=0", "--llm", "timeout=5"]
    with pytest.raises(SystemExit, match=r"the dialogue ended: .*no answer after 1 attempts"):
        main(["play", "--env", "RLPA-LLM-v0", "--agent", "script", *where])
    with pytest.raises(SystemExit, match="RLPA-LLM-v0: expected --base-url"):
        main(["play", "--env", "RLPA-LLM-v0", "--agent", "script"])
