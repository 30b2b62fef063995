"""The contract of an outside generator: what is asked, what an answer must hold, how failures are named."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import Script
from toy import toy_config

from rlpa_agent.batch import make_batch
from rlpa_agent.config import shipped_start
from rlpa_agent.learner import Learner
from rlpa_agent.lora import LoraSettings
from rlpa_agent.policy import Policy
from rlpa_agent.rollout import RolloutCounts, collect
from rlpa_agent.served import GeneratorError, VllmGenerator
from rlpa_agent.trainer import Trainer
from rlpa_env import ConfigError

LINES = ("Well, I bake.", "No.", "My sister is the nurse in the family, you know")


class Server:
    """Keeps vLLM's contract with a policy of this process behind it; ``spoil`` changes an answer before it is sent."""

    def __init__(self, policy):
        self.policy, self.seen, self.loaded, self.spoil, self.status = policy, [], [], lambda answer: None, []
        self.torn = 0  # so many answers break off
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, data = outer.answer(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data) + (outer.torn > 0)))
                outer.torn -= 1
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, path, body):
        if self.status:
            return self.status.pop(0), b"busy"
        if path.endswith("/load_lora_adapter") and ("load", body["lora_name"]) in self.loaded:
            return 400, b"The lora adapter has already been loaded."
        if path.endswith("unload_lora_adapter") and ("load", body["lora_name"]) not in self.loaded:
            return 404, b"The lora adapter cannot be found."
        if path.endswith("_lora_adapter"):
            self.loaded.append((path.rsplit("/", 1)[1].split("_")[0], body["lora_name"]))
            return 200, b"Success"
        self.seen.append(body)
        ids, logp = self.sampled(body)
        reason = "stop" if ids[-1] in body["stop_token_ids"] else "length"
        choice = {"token_ids": ids, "logprobs": {"token_logprobs": logp}, "finish_reason": reason, "text": ""}
        answer = {"model": body["model"], "choices": [choice]}
        self.spoil(answer)
        return 200, json.dumps(answer).encode()

    @torch.no_grad()
    def sampled(self, body):
        """Token by token from plain forward passes."""
        rng = np.random.default_rng(body["seed"])
        ids, out, logp = list(body["prompt"]), [], []
        while len(out) < body["max_tokens"] and not (out and out[-1] in body["stop_token_ids"]):
            logits = self.policy.lm(input_ids=torch.tensor([ids])).logits[0, -1] / body["temperature"]
            for i, bias in (body["logit_bias"] or {}).items():
                logits[int(i)] += bias
            p = logits.double().softmax(-1).numpy()
            out.append(int(rng.choice(len(p), p=p)))
            logp.append(float(np.log(p[out[-1]])))
            ids.append(out[-1])
        return out, logp


@pytest.fixture
def server():
    made = Server(tiny_models.policy(sharpness=2.0))
    yield made
    made.http.shutdown()
    made.http.server_close()


def generator_of(server, tmp_path, **options):
    policy = server.policy
    banned = torch.nonzero(policy.banned_V)[:, 0].tolist()
    made = VllmGenerator(server.url, tmp_path, end_ids=policy.chat.end_ids, banned_ids=banned, **({"concurrency": 4} | options))
    made.version = "policy-000000"  # as after update(); what that does has a test of its own
    return made


def held(server, generator, n=4, **options):
    envs = [Script(LINES) for _ in range(3)]
    settings = {"seeds": range(n), "max_new_tokens": 8, "max_turns": 3, "temperature": 0.7} | options
    return collect(server.policy, envs, generator=generator, **settings)


def test_dialogues_from_a_server_are_those_of_the_policy(server, tmp_path):
    generator, counts = generator_of(server, tmp_path), RolloutCounts()
    trajectories = held(server, generator, counts=counts)
    assert [len(t.turns) for t in trajectories] == [len(t.turns) for t in held(server, None)] == [3, 3, 3, 3]
    batch = make_batch(trajectories, max_turns=3)
    with torch.no_grad():
        for row, ids in enumerate(batch.rows):
            own = batch.row_A == row
            logits = server.policy.lm(input_ids=torch.from_numpy(ids)[None]).logits[0] / 0.7
            logp = logits.masked_fill(server.policy.banned_V, -torch.inf).log_softmax(-1)
            rescored = logp[batch.pos_A[own] - 1, torch.from_numpy(ids)[batch.pos_A[own]]]
            assert float((rescored - batch.logp_old_A[own]).abs().max()) <= 1e-4
    assert counts.action_tokens == batch.tokens
    asked = server.seen[0]
    assert asked["model"] == "policy-000000"
    assert asked["stop_token_ids"] == list(server.policy.chat.end_ids)
    assert (asked["top_p"], asked["top_k"], asked["temperature"]) == (1.0, 0, 0.7)
    assert len({body["seed"] for body in server.seen}) == len(server.seen)


def test_no_more_requests_are_in_flight_than_it_may_have(server, tmp_path):
    generator, now, most = generator_of(server, tmp_path, concurrency=2), [0], [0]
    counted, answer = threading.Lock(), server.answer

    def slow(path, body):
        with counted:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with counted:
            now[0] -= 1
        return answer(path, body)

    server.answer = slow
    futures = [generator.begin([5, 6], [i], 2, 1.0) for i in range(8)]
    assert all(len(future.result(timeout=30).ids) for future in futures)
    assert most == [2]
    server.answer, release = (lambda path, body: release.wait(60) and answer(path, body)), threading.Event()
    running = [generator.begin([5, 6], [i], 2, 1.0) for i in range(2)]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not all(future.running() for future in running):
        time.sleep(0.01)
    asked, waiting = len(server.seen), generator.begin([5, 6], [9], 2, 1.0)
    assert waiting.cancel()  # as long as nothing was sent for it
    release.set()
    assert all(len(future.result(timeout=30).ids) for future in running)
    assert len(server.seen) == asked + 2


def test_a_run_that_ends_does_not_wait_for_answers_in_flight(tmp_path):
    """A server may take minutes for one, or never answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        script = f"""
from rlpa_agent.served import VllmGenerator
generator = VllmGenerator("http://127.0.0.1:{silent.getsockname()[1]}", {str(tmp_path)!r}, end_ids=[1], concurrency=1)
generator.version = "policy"
generator.begin([1], [0], 1, 1.0), generator.begin([1], [1], 1, 1.0)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)  # it would be 900 s
    assert (done.returncode, done.stderr) == (0, "")


def test_the_same_streams_ask_for_the_same_seeds(server, tmp_path):
    generator = generator_of(server, tmp_path)
    first, second = held(server, generator, sample_seed=5), held(server, generator, sample_seed=5)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.final_context_ids, b.final_context_ids)


SPOILS = {
    "no ids": lambda a: a["choices"][0].pop("token_ids"),
    "a logprob too few": lambda a: a["choices"][0]["logprobs"]["token_logprobs"].pop(),
    "a logprob that is none": lambda a: a["choices"][0]["logprobs"]["token_logprobs"].__setitem__(0, None),
    "infinite": lambda a: a["choices"][0]["logprobs"]["token_logprobs"].__setitem__(0, -float("inf")),
    "old weights": lambda a: a.__setitem__("model", "policy-000099"),
    "end token missing": lambda a: a["choices"][0].__setitem__("finish_reason", "stop"),
    "cut short": lambda a: (a["choices"][0]["token_ids"].pop(), a["choices"][0]["logprobs"]["token_logprobs"].pop()),
}


@pytest.mark.parametrize("name", SPOILS)
def test_an_answer_off_the_contract_is_refused(server, tmp_path, name):
    server.policy.banned_V[list(server.policy.chat.end_ids)] = True  # every answer runs to its length
    generator = generator_of(server, tmp_path)
    server.spoil = SPOILS[name]
    with pytest.raises(GeneratorError, match="expected"):
        generator.begin([1, 2, 3], (0,), 4, 1.0).result()
    server.spoil = lambda answer: None
    assert len(generator.begin([1, 2, 3], (0,), 4, 1.0).result().ids) == 4


def test_transport_failures_are_repeated_and_then_named(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    generator = generator_of(server, tmp_path)
    server.status = [500, 503]
    assert generator.begin([1, 2, 3], (0,), 4, 1.0).result().ids
    server.status = [500] * 3
    with pytest.raises(GeneratorError, match="HTTP 500: busy"):
        generator.begin([1, 2, 3], (0,), 4, 1.0).result()
    server.status = [404]
    with pytest.raises(GeneratorError, match="HTTP 404"):
        generator.begin([1, 2, 3], (0,), 4, 1.0).result()
    server.torn = 2
    assert generator.begin([1, 2, 3], (0,), 4, 1.0).result().ids
    server.torn = 3
    with pytest.raises(GeneratorError, match="3 tries; the last: IncompleteRead"):
        generator.begin([1, 2, 3], (0,), 4, 1.0).result()
    gone = VllmGenerator("http://127.0.0.1:9", tmp_path, end_ids=[0], tries=2)
    gone.version = "x"
    with pytest.raises(GeneratorError, match="2 tries"):
        gone.begin([1], (0,), 4, 1.0).result()


class Saved:
    def save(self, folder):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")


def test_a_load_that_only_its_answer_was_lost_of_and_an_adapter_that_a_new_server_forgot_stop_no_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    generator = VllmGenerator(server.url, tmp_path, end_ids=[0])
    server.torn = 1
    first = generator.update(Saved())
    server.loaded.clear()
    second = generator.update(Saved())
    assert server.loaded == [("load", second)]
    assert not (tmp_path / first).exists()
    server.status = [400] * 2  # "busy"
    with pytest.raises(GeneratorError, match="HTTP 400: busy"):
        generator.update(Saved())


def test_every_version_has_a_new_name_and_the_old_one_goes(server, tmp_path):
    generator = VllmGenerator(server.url, tmp_path, end_ids=[0])
    with pytest.raises(ConfigError, match="update"):
        generator.begin([1], (0,), 4, 1.0)
    first, second = generator.update(Saved()), generator.update(Saved())
    assert (first.rsplit("-")[-1], second.rsplit("-")[-1], first[:-6] == second[:-6]) == ("000000", "000001", True)
    assert server.loaded == [("load", first), ("load", second), ("unload", first)]
    other = VllmGenerator(server.url, tmp_path, end_ids=[0]).update(Saved())
    assert other not in (first, second)  # of a run that goes on after a crash
    with pytest.raises(ConfigError, match="LoRA"):
        generator.update(server.policy)


def test_importance_weights_are_truncated_ratios(tmp_path):
    learner = Learner(tiny_models.policy(), toy_config(tmp_path, 3, rollout={"server": "http://localhost:1"}))
    weights = learner._importance(torch.tensor([0.0, -1.0, 0.0]), torch.tensor([0.0, 0.0, -3.0]))
    assert weights.tolist() == pytest.approx([1.0, 0.36787945, 2.0])
    assert Learner(tiny_models.policy(), toy_config(tmp_path, 3))._importance(torch.zeros(1), torch.ones(1)) is None


def test_a_run_on_a_server_hands_over_its_weights_every_iteration(tmp_path):
    """The server answers with the very adapter that it was handed last, as read from the folder."""
    base = tmp_path / "base"
    tiny_models.policy(sharpness=2.0).save(base)
    policy = Policy.from_pretrained(base, lora=LoraSettings(rank=4, alpha=8), max_user_tokens=96)
    server = Server(policy)
    load = server.answer

    def answer(path, body):
        if path == "/v1/load_lora_adapter":
            server.policy = Policy.from_pretrained(body["lora_path"], reference=False)
        return load(path, body)

    server.answer = answer
    config = toy_config(
        tmp_path, 2, iterations=3, rollout={"dialogues": 3, "concurrent": 3, "max_new_tokens": 6, "server": server.url}, optim={"policy_lr": 3e-2}
    )
    banned = policy.banned_V.nonzero()[:, 0].tolist()
    generator = VllmGenerator(server.url, tmp_path / "served", end_ids=policy.chat.end_ids, banned_ids=banned, concurrency=3)

    def make_env():
        return Script(LINES, turns=2, pay=lambda text, turn: float(len(text) % 3))

    Trainer(config, policy, make_env, quiet=True, generator=generator).run()
    server.http.shutdown()
    server.http.server_close()
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["served"] for line in lines] == [True] * 3
    assert max(line["sampling_mismatch_max"] for line in lines) < 1e-3
    assert lines[-1]["kl"] != 0.0  # the weights have moved, and the server with them
    assert [kind for kind, _ in server.loaded] == ["load", "load", "unload", "load", "unload"]
    assert len(list((tmp_path / "served").iterdir())) == 1


def test_the_benchmark_trains_twice_and_compares_on_held_out_people(benchmark_script, tmp_path, monkeypatch, capsys):
    run = benchmark_script("served_rollouts/run.py")
    server = Server(Policy.from_pretrained(shipped_start(), reference=False))
    command = ["run.py", "--server", server.url, "--smoke", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", command)
    run.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads((tmp_path / "out/served_rollouts.json").read_text())["figures"]
    asked = len(server.seen)
    assert asked == 2 * 2  # dialogues of two turns in the one iteration; held-out people are not its business
    built_in, served = (figures["curves"][arm][0][0] for arm in ("built in", "served"))
    assert built_in["return"] != served["return"]
    assert 0 < served["sampling_mismatch_max"] < 1e-3
    assert {row["agent"] for row in figures["rows"]} == {"start", "built in", "served"}
    assert figures["claims"]["near"] is True
    run.main()
    assert len(server.seen) == asked  # a finished run is not held again
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    server.http.shutdown()
    server.http.server_close()


def test_what_the_benchmark_claims_of_a_server(benchmark_script):
    judged = benchmark_script("served_rollouts/run.py").judged
    gains = {"built in - start": {"return": (2.0, 1.0, 3.0)}, "served - start": {"return": (1.0, 0.1, 2.0)}}
    assert judged([[{"sampling_mismatch_max": 0.01}]], gains) == {"near": True, "rises": True, "half": True}
    assert judged([[{"sampling_mismatch_max": 0.01}], [{"sampling_mismatch_max": 0.011}]], gains)["near"] is False
    assert judged([], gains | {"served - start": {"return": (0.99, -0.1, 2.0)}}) == {"near": True, "rises": False, "half": False}
