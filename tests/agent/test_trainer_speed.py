"""The speed benchmark runs, compares like with like, and its exponents are exponents."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "trainer_speed"


@pytest.fixture(scope="module")
def speed():
    before = list(sys.path)
    sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
    spec = importlib.util.spec_from_file_location("trainer_speed_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def test_parts_without_a_peer(speed, monkeypatch, capsys, tmp_path):
    parts = ["--parts", "growth", "rows", "prefill", "roofline"]
    monkeypatch.setattr(sys, "argv", ["run.py", "--smoke", "--threads", "1", *parts, "--out", str(tmp_path)])
    speed.main()
    torch.set_flush_denormal(False)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    size = speed.SMOKE
    # A dialogue's tokens are those of its turns and no more: what was fed once is not fed again.
    growth = figures["growth"]
    assert growth["turns"] == [2, 4]
    assert growth["rollout_tokens"]["exponent"] < 1.15  # reading all anew each turn would give 1.7
    two, four = growth["update_tokens"]["median"]
    import workload

    glue = workload.policy_from(workload.build_model(tmp_path / "model", size, 0), size).chat.glue_tokens()
    assert four - two == 2 * 2 * 2 * (size.dialogue_tokens + size.user_tokens + glue)  # epochs, dialogues, turns
    rows = figures["rows"]
    assert rows["per_turn"]["fed"] > rows["whole"]["fed"]
    assert rows["whole_to_per_turn"] == pytest.approx(rows["per_turn"]["median"] / rows["whole"]["median"])
    prefill = figures["prefill"]["tiny"]
    assert prefill["ours_to_generate"] == pytest.approx(prefill["generate"]["median"] / prefill["ours"]["median"])
    assert prefill["dialogues"] == size.dialogues
    tiny = figures["roofline"]["tiny"]
    assert tiny["row_tokens"] == 2 * (6 + 4)
    assert all(0 < tiny[name]["median"] < 1.5 for name in ("update", "scoring", "gradient"))
    record = json.loads((tmp_path / "trainer_speed.json").read_text())
    assert record["figures"] == figures
    assert record["seeds"] == [0]


@pytest.mark.parametrize("rank", [0, 4])
def test_the_arithmetic_of_an_update_by_hand(speed, tmp_path, rank):
    """One layer of width 8 with 2 heads of 4 over 1 of keys, MLP of 16, 32 words; rows of 5 and 3 tokens, 2 of each sampled."""
    import roofline
    import tiny_models
    from transformers import Qwen2Config

    from rlpa_agent.lora import LoraSettings
    from rlpa_agent.policy import Policy

    tokenizer = tiny_models.policy().tokenizer
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True
    )
    Policy.from_config(config, tokenizer, system_prompt="", reference=False).save(tmp_path / "small")
    policy = Policy.from_pretrained(tmp_path / "small", lora=LoraSettings(rank) if rank else None, dtype=torch.float32)
    batches = [roofline.batch_of(policy, rows=1, turns=1, fed=fed, sampled=2, seed=0) for fed in (3, 1)]
    projections = [(8, 8), (8, 4), (8, 4), (8, 8), (8, 16), (8, 16), (16, 8)]  # q k v o gate up down
    vocabulary = len(tokenizer) * 8
    for batch, tokens, pairs in zip(batches, (5, 3), (15, 6), strict=True):  # 1 + 2 + … n pairs of a token and what it sees
        at = [tokens] * 3 + [2] * 4  # all tokens; behind the attention of the last layer those from which one is predicted
        base = sum(a * b * count for (a, b), count in zip(projections, at, strict=True))
        adapters = sum(rank * (a + b) * count for (a, b), count in zip(projections, at, strict=True))
        forward = 2 * (base + adapters) + 2 * vocabulary * 2 + 2 * 2 * 8 * pairs
        weights = 2 * adapters if rank else 2 * base + 2 * vocabulary * 2
        found = roofline.work_of(policy, batch)
        assert found.forward == forward
        assert found.reference == forward - 2 * adapters
        assert found.backward == forward + 2 * 2 * 8 * pairs + weights


def test_both_sides_sample_exactly_so_many_tokens(speed, tmp_path):
    import workload
    from peer import reprefilled

    size = speed.SMOKE
    policy = workload.policy_from(workload.build_model(tmp_path / "model", size, 0), size)
    openings = [policy.chat.opening([("user", workload.said(i, 0))]).tolist() for i in range(3)]
    assert len({len(ids) for ids in openings}) == 1
    done, mask = reprefilled(policy.lm, policy.chat, openings, 3, 5)
    assert [sum(sampled) for sampled in mask] == [15, 15, 15]
    ours = workload.Ours(tmp_path / "model", size, algo="grpo", turns=3, tokens=5)
    trajectories, _ = ours.trainer.gather()
    assert {len(turn.action_ids) for t in trajectories for turn in t.turns} == {5}
    # The same dialogue by either way is equally long, glue included.
    last = trajectories[0].turns[-1]
    assert len(last.context_ids) + 5 == len(openings[0]) + len(done[0])
    ours.trainer.policy.banned_V[list(policy.chat.end_ids)] = False
    ours.trainer.policy.banned_V[:-2] = True  # answers that end at once
    with pytest.raises(RuntimeError, match="expected 60 sampled tokens"):
        ours()


@pytest.mark.parametrize("head_ratio", [1.0, 0.0])
def test_memory_of_a_real_model_is_that_of_an_iteration_in_which_its_policy_learns(speed, monkeypatch, tmp_path, head_ratio):
    asked = []

    def build_trainer(config, quiet):
        asked.append(config)
        return SimpleNamespace(one_iteration=lambda: {"head_ratio": head_ratio})

    monkeypatch.setattr(speed, "build_trainer", build_trainer)
    with nullcontext() if head_ratio else pytest.raises(RuntimeError, match="expected an update of the policy"):
        assert speed.probe("lora", "a/model", speed.SMOKE, 0, tmp_path) > 0
    assert asked[0].ppo.critic_warmup == 0  # the first iteration is the one that is measured


@pytest.mark.parametrize("part", ["growth", "rows", "ppo"])
def test_nothing_is_measured_where_only_the_critic_learns(speed, monkeypatch, tmp_path, part):
    import workload

    def warming_up(*args, usual=workload.config_of, **options):
        config = usual(*args, **options)
        return dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, critic_warmup=9))

    monkeypatch.setattr(workload, "config_of", warming_up)
    model = workload.build_model(tmp_path / "model", speed.SMOKE, 0)
    with pytest.raises(RuntimeError, match="expected an update of the policy"):
        speed.probe(part, model, speed.SMOKE, 0, tmp_path) if part == "ppo" else getattr(speed, part)(model, speed.SMOKE, 0)


def test_an_exponent_is_a_slope(speed):
    assert speed.exponent([5, 10, 20, 40], [3 * n**1.5 for n in (5, 10, 20, 40)]) == pytest.approx(1.5)


@pytest.mark.skipif(find_spec("trl") is None, reason="needs trl and accelerate: pip install '.[baselines]'")
def test_trl_trains_the_same_model_beside_ours():
    command = [sys.executable, str(FOLDER / "run.py"), "--smoke", "--threads", "1", "--parts", "single", "multi"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for part in ("single", "multi"):
        assert all(len(figures[part][name]["all"]) == 1 for name in ("grpo", "ppo", "trl"))
        assert figures[part]["grpo_to_trl"] > 0


@pytest.mark.skipif(find_spec("trl") is None, reason="needs trl and accelerate: pip install '.[baselines]'")
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")  # which TRL itself sets
@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_trl_with_its_defaults_is_not_held_to_a_precision_that_the_processor_is_slow_in(speed, tmp_path, monkeypatch, faster):
    import peer
    import workload

    monkeypatch.setattr(peer, "faster_dtype", lambda width: faster)
    size = speed.SMOKE
    model = workload.build_model(tmp_path / "model", size, 0)
    chat = workload.policy_from(model, size).chat
    made = peer.Peer(model, size, chat, tmp_path / "trl", same=False)
    assert made.trainer.args.bf16 is made.bf16 is (faster == "bfloat16")


def test_a_stopped_command_keeps_what_it_measured_and_goes_on_behind_it(speed, monkeypatch, tmp_path):
    asked, stop = [], [True]

    def measured(part, *_):
        asked.append(part)
        if part == "rows" and stop:
            raise KeyboardInterrupt
        return {"exponent": float(len(asked))}

    def run(*more, parts=("growth", "rows")):
        monkeypatch.setattr(sys, "argv", ["run.py", "--smoke", "--threads", "1", "--parts", *parts, "--out", str(tmp_path), *more])
        try:
            speed.main()
        finally:
            torch.set_flush_denormal(False)
        return json.loads((tmp_path / "trainer_speed.json").read_text())["figures"]

    monkeypatch.setattr(speed, "measured", measured)
    def at(commit):
        for module in (speed, sys.modules["common"]):
            monkeypatch.setattr(module, "commit", lambda: commit)

    at("1a2b3c4")
    with pytest.raises(KeyboardInterrupt):
        run()
    stop.clear()
    figures = run()
    assert asked == ["growth", "rows", "rows"]
    assert [figures[part]["exponent"] for part in ("growth", "rows")] == [1.0, 3.0]
    assert run(parts=("prefill",)).keys() >= {"growth", "rows", "prefill"}  # what was not asked for again is not lost
    assert "growth" not in run("--seed", "1", parts=("rows",))  # other settings are another result
    asked.clear()
    for commit, held in (("5d6e7f8", 1), ("5d6e7f8", 0), ("5d6e7f8+", 1), ("5d6e7f8+", 1)):  # of a changed tree nothing is known
        at(commit)
        run("--seed", "1", parts=("rows",))
        assert len(asked) == held
        asked.clear()
