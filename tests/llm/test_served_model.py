"""A real OpenAI-compatible server with a random tiny Qwen2: whatever text comes, an episode ends valid or as a named failure.

`transformers serve` has no JSON schema, so judge and matcher meet answers off it, which a schema-obeying server never gives.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import pytest

from rlpa_env import PromptingAgent, RecordEpisodes, format_action, parse_action, read_episodes
from rlpa_env.agents import make_agent
from rlpa_env.vector import step_all

pytest.importorskip("uvicorn", reason="the server needs transformers[serving], part of the extra dev")
TINY = Path(__file__).parents[2] / "rlpa_agent" / "data" / "tiny"
STARTED_WITHIN = 90.0  # seconds


@contextmanager
def serve(folder):
    """The settings of a client for a model folder, served as long as the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder.parent / f"{folder.name}.log"
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=quiet)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield {"base_url": f"http://127.0.0.1:{port}/v1", "model": str(folder), "max_tokens": 32, "retries": 1}
    finally:
        process.kill()
        process.wait()


def _wait(url, process, log):
    until = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, f"the server did not start:\n{log.read_text()[-2000:]}"
            time.sleep(0.2)
    raise AssertionError(f"no server after {STARTED_WITHIN} s:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """A random Qwen2 with the tokenizer and chat template of the shipped policy."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("served") / "random"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=1536, max_position_embeddings=16_384, tie_word_embeddings=True, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    shutil.copy(TINY / "generation_config.json", folder)
    with serve(folder) as settings:
        yield settings


def play(env, agent, seed):
    """The infos of one episode."""
    _, info = env.reset(seed=seed)
    infos, over = [], False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(info["messages"]))
        assert env.observation_space.contains(observation)
        assert isinstance(reward, float)
        infos.append(info)
        over = terminated or truncated
    return infos


def ended_well(infos):
    """A whole valid episode, or one whose last turn, and no other, names what failed and has no reward."""
    *before, last = infos
    assert all(info["reward/valid"] and not info["error"] for info in before)
    if last["stop_reason"] == "failure":
        assert not last["reward/valid"]
        assert last["reward/profile"] == last["reward/response"] == 0
        assert last["error"].startswith(("off schema: user", "off schema: judge", "off schema: matcher"))
    else:
        assert last["reward/valid"]
        assert last["error"] == ""
        assert last["stop_reason"] == "user_left" or len(infos) == 10
    return last


def test_a_user_of_random_text_keeps_the_dialogue_whole(llm):
    agent = make_agent("attentive")
    envs = [gym.make("RLPA-v0", user="llm", llm=llm) for _ in range(3)]
    infos = [[env.reset(seed=seed)[1]] for seed, env in enumerate(envs)]
    running = list(range(len(envs)))
    while running:
        steps = step_all([envs[i] for i in running], [agent.act(infos[i][-1]["messages"]) for i in running])
        for i, (_, _, _, _, info) in zip(running, steps, strict=True):
            infos[i].append(info)
        running = [i for i, (_, _, terminated, truncated, _) in zip(running, steps, strict=True) if not (terminated or truncated)]
    for own in infos:
        ended_well(own[1:])
    said = [message["content"] for own in infos for message in own[-1]["messages"] if message["role"] == "user"]
    assert len(set(said)) > 10  # real answers, not one canned line
    counts = envs[0].unwrapped._user.counts
    assert counts["messages"] >= len(infos[0]) - 1


def test_a_judge_off_its_schema_is_a_named_failure_and_no_zero(llm):
    env = gym.make("RLPA-v0", judge="llm", llm=llm)
    last = ended_well(play(env, make_agent("attentive"), seed=1))
    assert last["error"].startswith("off schema: judge: expected JSON of the schema 'verdict'")
    assert env.unwrapped._judge.client.usage.calls >= 3


def test_a_matcher_off_its_schema_is_a_named_failure_and_asks_only_where_something_can_match(llm):
    env = gym.make("RLPA-v0", matcher="llm", llm=llm)
    env.reset(seed=2)
    assert env.step(format_action([], "Hi, I was just making tea."))[4]["error"] == ""
    told = [(point.slot, point.value) for point in env.unwrapped.profile.points[:2]]
    assert env.step(format_action(told, "I could do with a nap, it was a long day."))[4]["error"] == ""  # equal values need no model
    guess = [(slot, f"rather {value}") for slot, value in told]
    last = env.step(format_action(guess, "Tea is what I like best on days like these."))[4]
    assert last["error"].startswith("off schema: matcher: expected JSON of the schema 'pairs'")
    assert not last["reward/valid"]


@pytest.mark.parametrize("method", ["base", "self-critic"])
def test_a_prompted_agent_of_random_text_earns_named_parse_errors(llm, method):
    infos = play(gym.make("RLPA-v0"), PromptingAgent(llm, method), seed=3)
    ended_well(infos)
    assert all(info["parse_error"] and info["reward/profile"] == info["reward/response"] == 0 for info in infos)


def test_the_shipped_policy_is_served_as_it_is_and_speaks_the_action_format(tmp_path):
    shutil.copytree(TINY, tmp_path / "tiny")
    system = (TINY / "system_prompt.txt").read_text(encoding="utf-8").strip()
    asked = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": "Hello"}]
    with serve(tmp_path / "tiny") as settings:
        action = parse_action(PromptingAgent(settings | {"max_tokens": 160, "temperature": 0.0}).act(asked))
    assert action.error == ""
    assert action.reply


def test_recorded_episodes_replay_byte_for_byte_with_the_network_blocked(llm, tmp_path, monkeypatch):
    def episodes(mode, path):
        settings = llm | {"mode": mode, "store": str(tmp_path / "store")}
        whole = RecordEpisodes(gym.make("RLPA-v0", user="llm", llm=settings), path)  # user and agent answer
        play(whole, PromptingAgent(settings), seed=4)
        failing = RecordEpisodes(gym.make("RLPA-LLM-v0", matcher="llm", llm=settings), path)  # judge and matcher do not
        play(failing, make_agent("attentive"), seed=5)
        whole.close()
        failing.close()
        return failing.unwrapped._judge.client.usage

    used = episodes("record", tmp_path / "recorded.jsonl")
    assert used.calls > 3
    refused = []

    def blocked(self, address, *more):
        refused.append(address)
        raise OSError(f"no network: {address}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, blocked)
    used = episodes("replay", tmp_path / "replayed.jsonl")
    assert (used.attempts, used.replayed > 3, refused) == (0, True, [])
    recorded = (tmp_path / "recorded.jsonl").read_bytes()
    assert (tmp_path / "replayed.jsonl").read_bytes() == recorded
    whole, failing = read_episodes(tmp_path / "recorded.jsonl")
    assert len(whole["turns"]) > 3
    assert failing["turns"][-1]["error"].startswith("off schema")
