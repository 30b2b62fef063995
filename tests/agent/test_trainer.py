"""The trainer in the real environment: what it leaves behind, resuming, damage, and that evaluation sees the same policy."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import signal
import sys
from concurrent.futures import Future

import gymnasium as gym
import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import Script
from toy import toy_config

from rlpa_agent import cli, tasks
from rlpa_agent.batch import make_batch
from rlpa_agent.checkpoint import (
    CheckpointError,
    base_dtype,
    checkpointed_policy,
    random_state,
    read_state,
    restore_random,
    seed_random,
)
from rlpa_agent.config import (
    PRESETS,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    PPOConfig,
    RolloutConfig,
    TrainConfig,
    shipped_start,
)
from rlpa_agent.estimates import Estimates, UpdateStats
from rlpa_agent.evaluate import PolicyAgent, policy_agent
from rlpa_agent.loading import holds_model
from rlpa_agent.lora import LoraSettings
from rlpa_agent.policy import Policy
from rlpa_agent.progress import health, rollout_figures, update_figures
from rlpa_agent.rollout import RolloutCounts, collect
from rlpa_agent.served import GeneratorError
from rlpa_agent.trainer import NothingScoredError, Trainer, shuffled_rewards
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_agent.world import World
from rlpa_env import CRITERIA, ChatClient, ConfigError, LLMMatcher, format_action, instructions
from rlpa_env.evaluate import Setting, results_table
from rlpa_env.evaluate import collect as evaluated
from rlpa_env.playing import episode_stream
from rlpa_env.results import summarise

TURNS = 3


def make_env(turns=TURNS):
    return gym.make("rlpa_env:RLPA-v0", max_episode_steps=turns, max_turns=turns)


def config_of(tmp_path, **changes):
    rollout = {"dialogues": 4, "concurrent": 3, "max_new_tokens": 10, "max_turns": TURNS}
    return toy_config(tmp_path, TURNS, rollout=rollout, **({"iterations": 2} | changes))


def policy_of(seed=0):
    return tiny_models.policy(seed=seed, context=1024, max_user_tokens=96)


def trainer_of(tmp_path, policy=None, evaluate=None, **changes):
    return Trainer(config_of(tmp_path, **changes), policy or policy_of(), make_env, evaluate, quiet=True)


def test_a_run_leaves_metrics_checkpoints_and_the_best_policy(tmp_path):
    seen = []

    def judged(policy):
        seen.append(policy)
        return {"return": float(-len(seen)), "profile_f1": 0.25}  # gets worse: the first is the best

    trainer = trainer_of(tmp_path, evaluate=judged)
    trainer.config = trainer.learner.config = dataclasses.replace(trainer.config, eval=EvalConfig(every=1, users=1))
    trainer.run()
    out = trainer.config.out
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    wanted = {"return", "kl", "entropy", "explained_variance", "profile/f1", "by_turn/profile/f1", "reward/response", "health"}
    wanted |= {"action_tokens", "prefill_ratio", "head_ratio", "pad_share", "peak_memory_mb", "left_early", "length_stops"}
    wanted |= {"judge/relevance", "guessed_points", "rollout_tokens_per_second", "update_tokens_per_second", "seconds"}
    wanted |= {"prefill_seconds", "decode_steps", "decode_rows", "by_turn/profile_tokens", "by_turn/kl", "by_turn/entropy"}
    assert wanted <= set(lines[0])
    assert lines[0]["decode_rows"] >= lines[0]["decode_steps"] > 0
    assert lines[0]["prefill_seconds"] > 0
    assert lines[0]["head_ratio"] == 1.0
    assert lines[0]["prefill_ratio"] <= 1.1
    assert lines[0]["kl"] == 0.0  # the reference is the start
    assert len(seen) == 3
    watched = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert [line.get("f1_gap") for line in watched] == [None, *(line["profile/f1"] - 0.25 for line in lines)]
    assert read_state(out / "best")["iteration"] == 0
    assert read_state(out / "last")["iteration"] == 2
    assert list((out / "tensorboard").iterdir())
    assert Policy.load(checkpointed_policy(out)).system_prompt == ""
    assert checkpointed_policy(out, "best") == out / "best" / "policy"


def test_a_run_ends_with_its_action_tokens_counting_those_before_it_was_stopped(tmp_path):
    first = trainer_of(tmp_path, iterations=1)
    first.run()
    tokens = first.action_tokens
    lines = [json.loads(line) for line in (first.config.out / "metrics.jsonl").read_text().splitlines()]
    assert tokens == sum(line["action_tokens"] for line in lines) > 0
    policy = Policy.load(checkpointed_policy(first.config.out, "last"))
    second = trainer_of(tmp_path, policy, iterations=50, action_tokens=2 * tokens + tokens // 2)
    assert second.config.hash() == first.config.hash()
    second.resume()
    assert second.action_tokens == tokens
    assert second._done(0.0) == pytest.approx(tokens / second.config.action_tokens)
    second.run()
    lines = [json.loads(line) for line in (first.config.out / "metrics.jsonl").read_text().splitlines()]
    sums = np.cumsum([line["action_tokens"] for line in lines])
    assert sums[-2] < second.config.action_tokens <= sums[-1]
    assert read_state(second.last)["action_tokens"] == sums[-1]


def test_minutes_that_earlier_processes_used_are_not_given_again(tmp_path):
    trainer = trainer_of(tmp_path, iterations=3, minutes=10.0)
    trainer.run(spent=599.9999)
    assert trainer.iteration == 1
    assert read_state(trainer.last)["iteration"] == 1


def test_a_style_is_everybodys_and_no_style_leaves_the_hash_as_it_was(tmp_path):
    plain, terse = (dataclasses.replace(PRESETS["tiny"], rollout=dataclasses.replace(PRESETS["tiny"].rollout, style=style)) for style in (None, "terse"))
    assert plain.hash() != terse.hash()
    data = dataclasses.asdict(plain)
    for name in ("iterations", "minutes", "action_tokens", "out", "save_every", "keep_rollouts"):
        del data[name]
    del data["optim"]["schedule_iterations"], data["ppo"]["old_logp"], data["model"]["device"], data["model"]["shard"]
    for name in ("style", "base_url", "model_name", "matcher"):  # as it was hashed before there were these
        del data["rollout"][name]
    data["rollout"]["server"] = False
    assert plain.hash() == hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]
    with pytest.raises(ConfigError, match="style: expected one of"):
        cli.environments(dataclasses.replace(plain.rollout, style="rude"))()
    with pytest.raises(ConfigError, match="action_tokens"):
        dataclasses.replace(plain, action_tokens=0)
    with pytest.raises(ConfigError, match="never end"):
        dataclasses.replace(plain, iterations=None)


def start_of(kind, tmp_path):
    """The policy that a run begins with: all weights trained, LoRA on a base, or LoRA from an adapter that was trained."""
    if kind == "full":
        return policy_of()
    policy_of().save(tmp_path / "base")
    policy = Policy.from_pretrained(tmp_path / "base", lora=LoraSettings(rank=4), max_user_tokens=96)
    if kind == "adapter":
        with torch.no_grad():
            for parameter in policy.parameters_policy():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        policy.freeze_reference()
    return policy


@pytest.mark.parametrize("kind", ["full", "lora", "adapter"])
def test_T11_resuming_gives_the_same_run(tmp_path, kind):
    def trainer_of(folder, policy, iterations):
        # An environment that pays for what a random model does, so that the policy moves.
        config = config_of(folder, iterations=iterations, optim={"warmup_iterations": 0})
        return Trainer(config, policy, lambda: Script(("Well.",), turns=TURNS, pay=lambda text, _: len(text) % 3), quiet=True)

    whole = trainer_of(tmp_path / "whole", start_of(kind, tmp_path), 3)
    whole.run()
    first = trainer_of(tmp_path / "parts", start_of(kind, tmp_path), 1)
    first.run()
    policy = Policy.load(checkpointed_policy(first.config.out), max_user_tokens=96)
    second = trainer_of(tmp_path / "parts", policy, 3)
    second.resume()
    assert second.iteration == 1
    second.run()
    for a, b in zip(whole.policy.parameters_policy(), second.policy.parameters_policy(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.policy.parameters_value(), second.policy.parameters_value(), strict=True):
        assert torch.equal(a, b)
    logs = [[json.loads(line) for line in (t.config.out / "metrics.jsonl").read_text().splitlines()] for t in (whole, second)]
    assert [line["return"] for line in logs[0]] == [line["return"] for line in logs[1]]
    assert [line["kl"] for line in logs[0]] == [line["kl"] for line in logs[1]]
    assert logs[0][0]["kl"] == 0.0
    assert logs[0][2]["kl"] != 0.0
    for name in ("policy/value_head.weights", "state.safetensors", "state.json"):
        assert (whole.last / name).read_bytes() == (second.last / name).read_bytes(), name


def drawn():
    """From every global generator."""
    return random.random() + random.gauss(0, 1) + float(np.random.random() + np.random.normal()) + float(torch.rand(()))  # noqa: NPY002 -- they are meant


def test_T11_with_an_environment_that_draws_from_global_generators_resuming_gives_the_same_run(tmp_path):
    """And with a validation that does so, of which the stopped run had one more: at its end."""

    def trainer_of(folder, policy, iterations):
        config = config_of(folder, iterations=iterations, optim={"warmup_iterations": 0})
        config = dataclasses.replace(config, eval=EvalConfig(every=2))
        return Trainer(config, policy, lambda: Script(("Well.",), turns=TURNS, pay=lambda *_: drawn()), lambda _: {"return": drawn()}, quiet=True)

    def begin():
        seed_random(3, 0)
        torch.manual_seed(3)

    def returns(trainer, name):
        return {line["iteration"]: line["return"] for line in map(json.loads, (trainer.config.out / name).read_text().splitlines())}

    begin()
    whole = trainer_of(tmp_path / "whole", policy_of(), 4)
    whole.run()
    begin()
    first = trainer_of(tmp_path / "parts", policy_of(), 1)
    first.run()
    for _ in range(5):
        drawn()
    second = trainer_of(tmp_path / "parts", Policy.load(checkpointed_policy(first.config.out), max_user_tokens=96), 4)
    second.resume()
    second.run()
    assert returns(whole, "metrics.jsonl") == returns(second, "metrics.jsonl")
    assert len(set(returns(whole, "metrics.jsonl").values())) == 4  # they do draw
    assert returns(whole, "validation.jsonl").items() < returns(second, "validation.jsonl").items()
    for name in ("policy/model.safetensors", "policy/value_head.weights", "state.safetensors"):
        assert (whole.last / name).read_bytes() == (second.last / name).read_bytes(), name
    assert read_state(whole.last)["random"] == read_state(second.last)["random"]


def test_random_states_are_restored_all_or_none_each_process_its_own_and_of_old_checkpoints_torchs():
    random.seed(1)
    random.gauss(0, 1)  # whose second value waits
    np.random.seed(1)  # noqa: NPY002
    np.random.normal()  # noqa: NPY002
    kept = json.loads(json.dumps([random_state(), {**random_state(), "python": random.Random(7).getstate()}]))
    following = drawn()
    restore_random(kept)
    assert drawn() == following
    restore_random(kept, 1)
    assert random.random() == random.Random(7).random()
    before = random_state()
    restore_random(kept, 2)
    with pytest.raises(CheckpointError, match="corrupt"):
        restore_random({**kept[0], "torch": [1, 2]})
    assert random_state() == before
    restore_random({"torch": kept[0]["torch"]})
    assert random_state() == {**before, "torch": kept[0]["torch"]}


def test_what_is_drawn_globally_follows_the_seed_of_a_run(tmp_path):
    def after(name, **changes):
        cli.build_trainer(config_of(tmp_path / name, **changes), quiet=True)
        return random.random(), np.random.random()  # noqa: NPY002

    one = after("one")
    assert one == after("again")
    assert not set(one) & set(after("other", seed=1))


def test_the_type_of_a_frozen_base_is_one_for_all_processes_and_stays_that_of_the_run(tmp_path, monkeypatch):
    tiny_models.policy(context=4096, system_prompt=None).save(tmp_path / "base", dtype=torch.bfloat16)
    config = config_of(tmp_path, model={"path": str(tmp_path / "base"), "lora_rank": 4, "rollout_dtype": "auto"})
    measured = []
    monkeypatch.setattr("rlpa_agent.checkpoint.frozen_dtype", lambda device: measured[-1])
    monkeypatch.setattr("rlpa_agent.policy.frozen_dtype", lambda device: pytest.fail("measured once more, by this process alone"))
    measured.append(torch.float32)
    trainer = cli.build_trainer(config, quiet=True)
    assert trainer.policy.lm.lm_head.weight.dtype == trainer.policy.rollout_dtype == torch.float32
    trainer.save()
    measured.append("auto")  # the next time it comes out otherwise
    resumed = cli.build_trainer(config, resume=True, quiet=True)
    assert resumed.policy.lm.lm_head.weight.dtype == resumed.policy.rollout_dtype == torch.float32
    assert cli.build_trainer(dataclasses.replace(config, out=tmp_path / "new"), quiet=True).policy.lm.lm_head.weight.dtype == torch.bfloat16

    class Other(World):
        def agreed(self, value):
            return torch.float32

    assert base_dtype(config, Other(1, 2), resume=False) == torch.float32


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    trainer_of(tmp_path, iterations=1).run()
    other = trainer_of(tmp_path, iterations=1, seed=5)
    with pytest.raises(CheckpointError, match="another"):
        other.resume()


@pytest.mark.parametrize("damage", ["state.json", "state.safetensors", "policy"])
def test_a_corrupt_checkpoint_is_named_and_nothing_is_overwritten(tmp_path, damage):
    trainer = trainer_of(tmp_path, iterations=1)
    trainer.run()
    last = trainer.config.out / "last"
    if damage == "policy":
        (last / "policy" / "config.json").unlink()
        with pytest.raises(CheckpointError, match="neither"):
            checkpointed_policy(trainer.config.out)
        return
    path = last / damage
    path.write_bytes(path.read_bytes()[:100])
    before = {p: p.read_bytes() for p in last.rglob("*") if p.is_file()}
    fresh = trainer_of(tmp_path, iterations=2)
    with pytest.raises(CheckpointError, match="corrupt"):
        fresh.resume()
    assert before == {p: p.read_bytes() for p in last.rglob("*") if p.is_file()}


def test_checkpoint_bytes_hold_no_time_and_no_path(tmp_path):
    folders = []
    for name in ("one", "two"):
        trainer = trainer_of(tmp_path / name, iterations=1)
        trainer.run()
        folders.append(trainer.last)
    for path in sorted(p.relative_to(folders[0]) for p in folders[0].rglob("*") if p.is_file()):
        assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes(), path


def test_sigterm_saves_and_exits_0(tmp_path):
    trainer = trainer_of(tmp_path, iterations=50)
    iteration = trainer.one_iteration

    def then_terminate(log, done):
        figures = iteration(log, done)
        os.kill(os.getpid(), signal.SIGTERM)
        return figures

    trainer.one_iteration = then_terminate
    with pytest.raises(SystemExit) as caught:
        trainer.run()
    assert caught.value.code == 0
    assert read_state(trainer.last)["iteration"] == 1


def test_kl_to_the_start_above_max_kl_stops_the_run(tmp_path):
    config = config_of(
        tmp_path, iterations=50, ppo={"max_kl": 1e-4, "target_kl": None}, optim={"policy_lr": 1e-2, "warmup_iterations": 0}
    )
    trainer = Trainer(config, policy_of(), lambda: Script(("Well.",), turns=TURNS), quiet=True)
    figures = trainer.run()
    assert trainer.iteration < 10
    assert "max_kl" in figures["health"]


def test_minutes_end_a_run(tmp_path):
    trainer = trainer_of(tmp_path, iterations=None, minutes=1e-4)
    trainer.run()
    assert trainer.iteration == 1
    with pytest.raises(ConfigError, match="never end"):
        config_of(tmp_path, iterations=None)


def test_the_learner_is_told_how_much_of_the_run_is_over_by_iterations_or_minutes(tmp_path):
    trainer = trainer_of(tmp_path, iterations=8, minutes=2.0)
    trainer.iteration = 2
    assert trainer._done(12.0) == 0.25
    assert trainer._done(60.0) == 0.5
    assert trainer._done(200.0) == 1.0
    assert trainer_of(tmp_path / "more", iterations=None, minutes=2.0)._done(30.0) == 0.25


def test_T25_rollout_and_evaluation_see_the_same_policy():
    policy = policy_of()
    seeds = [11, 12, 13, 14]
    rolled = collect(
        policy, [make_env()], seeds=seeds, sample_seed=9, temperature=1.0, max_new_tokens=10, max_turns=TURNS
    )
    agent = PolicyAgent(policy, seed=9, temperature=1.0, max_new_tokens=10)
    for seed, trajectory in zip(seeds, rolled, strict=True):
        env = make_env()
        _, info = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, info = env.step(agent.act(info["messages"]))
            total, over = total + reward, terminated or truncated
        assert total == sum(turn.reward for turn in trajectory.turns)
        texts = [text for role, text in trajectory.messages if role == "assistant"]
        assert texts == [message["content"] for message in info["messages"] if message["role"] == "assistant"]


def test_T25_evaluate_gives_the_returns_of_the_training_rollout():
    """`rlpa_env.evaluate` on the same people and seeds, with a policy that earns something."""
    policy = Policy.load(shipped_start(), reference=False, max_user_tokens=96)
    setting = Setting("RLPA-v0", "vanilla/val", 3, (0,), (("max_episode_steps", 2), ("max_turns", 2)))
    agent = PolicyAgent(policy, seed=9, temperature=1.0, max_new_tokens=100)
    records = evaluated({"policy": agent}, setting, quiet=True)["policy"]
    people, seeds = zip(*setting.episodes(), strict=True)
    options = [{"profile": person} for person in people]
    streams = [(9, episode_stream(*episode)) for episode in setting.episodes()]
    rolled = collect(policy, [setting.make()], seeds=seeds, options=options, streams=streams, temperature=1.0, max_new_tokens=100, max_turns=2)
    assert [record["profile"] for record in records] == list(people)
    assert [sum(turn["reward"] for turn in record["turns"]) for record in records] == [sum(turn.reward for turn in t.turns) for t in rolled]
    assert max(turn.reward for t in rolled for turn in t.turns) > 0
    assert [[m["content"] for m in record["messages"] if m["role"] == "assistant"] for record in records] == [
        [text for role, text in t.messages if role == "assistant"] for t in rolled
    ]


def test_T25_evaluate_ends_and_counts_dialogues_whose_context_is_full():
    policy = tiny_models.policy(context=512, max_user_tokens=96)
    setting = Setting("RLPA-v0", "vanilla/val", 4, (0,))
    settings = {"temperature": 1.0, "max_new_tokens": 60}
    records = evaluated({"policy": PolicyAgent(policy, seed=9, **settings)}, setting, quiet=True)["policy"]
    people, seeds = zip(*setting.episodes(), strict=True)
    streams = [(9, episode_stream(*episode)) for episode in setting.episodes()]
    rolled = collect(policy, [setting.make()], seeds=seeds, options=[{"profile": person} for person in people], streams=streams, **settings)
    assert "context" in {t.stop_reason for t in rolled}
    assert [record["stop_reason"] for record in records] == [t.stop_reason for t in rolled]
    assert [[turn["reward"] for turn in record["turns"]] for record in records] == [[turn.reward for turn in t.turns] for t in rolled]
    assert [[(m["role"], m["content"]) for m in record["messages"]] for record in records] == [list(t.messages) for t in rolled]
    row = summarise("policy", records, None, None, (0,))
    stopped = sum(t.stop_reason == "context" for t in rolled)
    assert (row["context_stops"], row["failures"]) == (stopped, 0)
    assert row["return"] == pytest.approx(np.mean([sum(turn.reward for turn in t.turns) for t in rolled]))
    assert f"{stopped} episodes outgrew the context" in "".join(results_table([row]).columns[0]._cells)
    with pytest.raises(ConfigError, match=r"room for a first answer.*the model has 512"):
        evaluated({"policy": PolicyAgent(policy, max_new_tokens=500)}, setting, quiet=True)


def test_shuffled_rewards_keep_the_rewards_and_lose_whose_they_are(tmp_path):
    trainer = trainer_of(tmp_path)
    trajectories, _ = trainer.gather()
    paid = [
        dataclasses.replace(t, turns=tuple(dataclasses.replace(turn, reward=float(i), partial=(0.5,)) for turn in t.turns))
        for i, t in enumerate(trajectories)
    ]
    mixed = shuffled_rewards(paid, seed=2)
    assert {turn.partial for t in mixed for turn in t.turns} == {()}  # else its lines would be paid what they earned
    assert sorted(t.turns[0].reward for t in mixed) == [0.0, 1.0, 2.0, 3.0]
    assert [t.turns[0].reward for t in mixed] != [0.0, 1.0, 2.0, 3.0]
    for a, b in zip(paid, mixed, strict=True):
        assert np.array_equal(a.turns[0].action_ids, b.turns[0].action_ids)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, "ok"),
        ({"length_stops": 0.41}, "41% of turns cut by length"),
        ({"explained_variance": 0.03}, "critic explains 3% of variance"),
        ({"most_common_reply": 0.5}, "collapse"),
        ({"malformed": 0.3, "left_early": 0.9}, "30% of completions malformed"),
        ({"left_early": 0.9}, "leave early"),
        ({"skipped_steps": 2.0}, "not finite"),
    ],
)
def test_the_health_line_names_the_likeliest_trouble(figures, expected):
    assert expected in health(figures)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: PPOConfig(gamma_turn=1.5), r"ppo\.gamma_turn: expected 0\.0 … 1\.0; got 1\.5"),
        (lambda: PPOConfig(kl_kind="k1"), "k2"),
        (lambda: PPOConfig(horizon="never"), "terminal"),
        (lambda: PPOConfig(dual_clip=1.0), r"ppo\.dual_clip: expected more than 1.*got 1\.0"),
        (lambda: PPOConfig(value_clip=-0.1), r"ppo\.value_clip: expected at least 0; got -0\.1"),
        (lambda: PPOConfig(target_kl=-0.1), r"ppo\.target_kl: expected at least 0"),
        (lambda: PPOConfig(max_kl=-1.0), r"ppo\.max_kl: expected at least 0"),
        (lambda: PPOConfig(lam_critic=1.1), r"ppo\.lam_critic: expected 0\.0 … 1\.0"),
        (lambda: OptimConfig(schedule_iterations=0), r"optim\.schedule_iterations: expected at least 1"),
        (lambda: TrainConfig(save_every=0), r"train\.save_every: expected at least 1"),
        (lambda: RolloutConfig(max_user_tokens=-1), r"rollout\.max_user_tokens: expected at least 1"),
        (lambda: RolloutConfig(dialogues=0), "dialogues"),
        (lambda: RolloutConfig(temperature=0.0), "more than 0"),
        (lambda: EvalConfig(split="vanilla/test"), "validation split"),
        (lambda: EvalConfig(split="data/test.jsonl"), "validation split; got 'data/test.jsonl'"),
        (lambda: EvalConfig(split="data/aloe_Test.jsonl"), "validation split"),
        (lambda: EvalConfig(split="aloe-test.jsonl"), "validation split"),
        (lambda: EvalConfig(split="aloe.test.jsonl"), "validation split"),
        (lambda: TrainConfig(algo="dpo"), "algo"),
        (lambda: ModelConfig(rollout_dtype="float16"), r"rollout_dtype: expected one of .*'bfloat16'; got 'float16'"),
        (lambda: ModelConfig(base_dtype="bfloat16"), "auto without LoRA"),
    ],
)
def test_impossible_settings_are_refused_with_the_value_seen(make, expected):
    with pytest.raises(ConfigError, match=expected):
        make()


@pytest.mark.parametrize("split", ["vanilla/val", "data/latest.jsonl", "test/val.jsonl", "testers.jsonl"])
def test_a_split_that_only_sounds_like_a_test_is_watched(split):
    assert EvalConfig(split=split).split == split


def chosen(*options, verb="train"):
    """(max_turns, split of training, split of validation) of a command line."""
    made = cli.parse_preset(verb, ["tiny", *options])
    settings = made.config.rollout if verb == "train" else made.data
    return settings.max_turns, settings.split, made.config.eval.split if verb == "train" else None


def test_an_environment_brings_its_own_turn_limit_and_people_unless_others_are_asked_for(tmp_path):
    assert chosen() == (10, "vanilla/train", "vanilla/val")
    assert chosen("--rollout.env-id", "RLPA-Long-v0") == (70, "vanilla/train", "vanilla/val")
    assert chosen("--rollout.env-id", "RLPA-Extended-v0") == (10, "extended/train", "extended/val")
    assert chosen("--rollout.env-id", "RLPA-Long-v0", "--rollout.max-turns", "10")[0] == 10
    said = ("--split", "vanilla/train", "--eval.split", "vanilla/val", "--rollout.max-turns", "3")
    assert chosen("--rollout.env-id", "RLPA-Extended-v0", *said) == (3, "vanilla/train", "vanilla/val")
    assert chosen("--env-id", "RLPA-Long-v0", verb="sft")[0] == 70
    assert chosen("--env-id", "RLPA-Extended-v0", verb="dpo")[1] == "extended/train"
    config = cli.parse_preset("train", ["tiny", "--rollout.env-id", "RLPA-Long-v0", "--seed", "5"]).config
    assert (config.rollout.env_id, config.seed, config.context.kind) == ("RLPA-Long-v0", 5, "window")
    long = RolloutConfig(env_id="RLPA-Long-v0")
    env = cli.environments(long)()
    assert (long.max_turns, env.spec.max_episode_steps, env.unwrapped.max_turns) == (70, 70, 70)
    assert cli.environments(RolloutConfig(env_id="RLPA-Extended-v0"))().unwrapped.split == "extended/train"
    assert RolloutConfig(env_id="RLPA-Long-v0", max_turns=10).max_turns == 10
    assert RolloutConfig(env_id="nobody knows it").max_turns == 10
    (tmp_path / "config.json").write_text(json.dumps(TrainConfig(rollout=long).as_dict()))
    assert TrainConfig.read(tmp_path).rollout == long


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("RLPA-v0", "vanilla/test")),
        (["--env", "RLPA-Extended-v0"], ("RLPA-Extended-v0", "extended/test")),
        (["--env", "RLPA-Extended-v0", "--split", "vanilla/test"], ("RLPA-Extended-v0", "vanilla/test")),
        (["--env", "RLPA-Long-v0"], ("RLPA-Long-v0", "vanilla/test")),
    ],
)
def test_an_evaluation_is_on_the_test_people_of_its_environment(tmp_path, monkeypatch, options, expected):
    told = []
    monkeypatch.setattr(cli, "evaluate", lambda agents, *, env_id, split, **_: told.append((env_id, split)) or [{"users": 1}])
    monkeypatch.setattr(cli, "results_table", lambda rows, title: told.append(title) or "")
    policy_of().save(tmp_path / "start")
    cli.main(["eval", "--policy", str(tmp_path / "start"), *options])
    assert told[0] == expected
    assert " · ".join(expected) in told[1]


def test_a_policy_is_told_the_turn_limit_that_holds(tmp_path, monkeypatch):
    import io

    tiny_models.policy(context=2048, system_prompt=instructions(10)).save(tmp_path / "ten")
    config = dataclasses.replace(PRESETS["tiny"], rollout=dataclasses.replace(PRESETS["tiny"].rollout, max_turns=2))
    assert cli.load_policy(config, str(tmp_path / "ten")).system_prompt == instructions(2)
    tiny_models.policy(context=2048, system_prompt="Be brief.").save(tmp_path / "own")
    assert cli.load_policy(config, str(tmp_path / "own")).system_prompt == "Be brief."
    told = []
    monkeypatch.setattr(PolicyAgent, "act", lambda self, messages: told.append(self.chat.system_prompt) or "<response>\nHi\n</response>")
    monkeypatch.setattr("sys.stdin", io.StringIO("I bake.\n\n"))
    cli.main(["chat", "--policy", str(tmp_path / "ten"), "--turns", "4"])
    assert told == [instructions(4)]


def test_a_trainer_refuses_dialogues_that_its_policy_has_no_room_for(tmp_path):
    config = toy_config(tmp_path, 5, rollout={"dialogues": 2, "concurrent": 2, "max_new_tokens": 40})
    with pytest.raises(ConfigError, match=r"5 turns x \(40 new .*the model has 160"):
        Trainer(config, tiny_models.policy(context=160, max_user_tokens=20), lambda: Script(["no"]), quiet=True)
    kept = tiny_models.policy(context=160, max_user_tokens=20)
    Trainer(dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, max_turns=1)), kept, lambda: Script(["no"]), quiet=True)
    Trainer(config, tiny_models.policy(context=160), lambda: Script(["no"]), quiet=True)  # how long users talk is not known


def test_the_hash_covers_what_is_learned_and_nothing_else(tmp_path):
    base = PRESETS["tiny"]
    same = dataclasses.replace(base, iterations=7, minutes=3.0, out=tmp_path)
    assert same.hash() == base.hash()
    assert base.hash() == "72b50bd13065d337"  # that of runs which were trained with this preset
    assert dataclasses.replace(base, optim=dataclasses.replace(base.optim, schedule_iterations=60)).hash() != base.hash()
    assert dataclasses.replace(base, seed=1).hash() != base.hash()
    assert dataclasses.replace(base, ppo=dataclasses.replace(base.ppo, beta=0.02)).hash() != base.hash()


def test_command_line_trains_resumes_and_evaluates(tmp_path, capsys):
    start = tmp_path / "start"
    policy_of().save(start)
    run = tmp_path / "run"
    options = ["train", "tiny", "--model", str(start), "--out", str(run), "--rollout.dialogues", "3", "--rollout.concurrent", "3"]
    options += ["--rollout.max-turns", "2", "--rollout.max-new-tokens", "8", "--eval.every", "1", "--eval.users", "2"]
    options += ["--split", "vanilla/val", "--seed", "3"]
    cli.main([*options, "--iterations", "1"])
    assert "iteration 1:" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="it holds a run"):
        cli.main([*options, "--iterations", "1"])
    with pytest.warns(UserWarning, match="follows the end of the run, which was {'iterations': 1}"):
        cli.main([*options, "--iterations", "2", "--resume"])
    assert read_state(run / "last")["iteration"] == 2
    assert len((run / "validation.jsonl").read_text().splitlines()) == 3
    cli.main(["eval", "--policy", str(run), "--users", "2", "--max-new-tokens", "8", "--out", str(tmp_path / "eval")])
    rows = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert [row["agent"] for row in rows] == [str(run), "prior", "oracle"]
    with pytest.raises(SystemExit, match="nowhere"):
        cli.main(["eval", "--policy", str(tmp_path / "nowhere"), "--users", "1"])


def spoken(self, messages, **options):
    """In the place of `ChatClient.begin`: a user who says its draft, a judge who finds all well."""
    asked, future = json.loads(messages[1]["content"]), Future()
    future.set_result(asked["say"] if "say" in asked else json.dumps({name: {"reason": "why", "pass": True} for name in CRITERIA}))
    return future


def test_the_command_line_trains_and_evaluates_with_a_served_model(tmp_path, monkeypatch):
    policy_of().save(tmp_path / "start")
    asked = []
    monkeypatch.setattr(ChatClient, "begin", lambda self, *a, **o: asked.append(self.config) or spoken(self, *a, **o))
    run = ["train", "tiny", "--model", str(tmp_path / "start"), "--rollout.dialogues", "2", "--rollout.env-id", "RLPA-LLM-v0"]
    run += ["--rollout.max-turns", "2", "--rollout.max-new-tokens", "8", "--eval.users", "1", "--iterations", "1"]
    with pytest.raises(SystemExit, match=r"RLPA-LLM-v0.*expected the base_url and model_name of a served model.*--rollout\.base-url"):
        cli.main([*run, "--out", str(tmp_path / "none")])
    served = ["--rollout.base-url", "http://127.0.0.1:9/v1", "--rollout.model-name", "m"]
    cli.main([*run, *served, "--out", str(tmp_path / "run")])
    assert {(config.base_url, config.model) for config in asked} == {("http://127.0.0.1:9/v1", "m")}
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["failures"] == 0
    assert json.loads((tmp_path / "run" / "validation.jsonl").read_text().splitlines()[0])["users"] == 1
    told = []

    def heard(agents, *, env_id, env_kwargs, al_judge, **_):
        told.append((env_id, env_kwargs, al_judge))
        raise ConfigError("that is all")

    monkeypatch.setattr(cli, "evaluate", heard)
    options = ["--env", "RLPA-LLM-v0", "--base-url", "http://127.0.0.1:9/v1", "--model-name", "m", "--matcher", "llm", "--al-judge", "llm"]
    with pytest.raises(SystemExit, match="that is all"):
        cli.main(["eval", "--policy", str(tmp_path / "run"), *options])
    assert told == [("RLPA-LLM-v0", {"matcher": "llm", "llm": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}}, "llm")]
    with pytest.raises(ConfigError, match="matcher='llm': expected the base_url"):
        cli.environments(RolloutConfig(matcher="llm"))
    env = cli.environments(RolloutConfig(matcher="llm", base_url="http://127.0.0.1:9/v1", model_name="m"))()
    assert isinstance(env.unwrapped._matcher, LLMMatcher)


def test_validation_leaves_out_what_a_failure_cut_short(tmp_path, monkeypatch):
    from rlpa_env.evaluate import Setting, collect
    from rlpa_env.results import means

    records = collect({"attentive": None}, Setting(users=2), quiet=True)["attentive"]
    torso = records[0] | {"stop_reason": "failure", "turns": records[0]["turns"][:1]}
    monkeypatch.setattr(sys.modules["rlpa_env.evaluate"], "collect", lambda *_, **__: {"policy": [torso, records[1]]})
    figures = tasks.validation(config_of(tmp_path))(policy_of())
    assert figures["profile_f1"] == pytest.approx(float(means(records, "f1")[1]))
    assert all(np.isfinite(value) for value in figures.values())


def test_validation_and_evaluation_see_the_limits_and_the_task_of_the_run(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sys.modules["rlpa_env.evaluate"], "collect", lambda agents, setting, **_: seen.append((agents["policy"], setting)) or {"policy": []})
    rollout = RolloutConfig(max_turns=3, cues="explicit", style="terse", credit="grounded", max_new_tokens=12, profile_weight=5.0)
    config = dataclasses.replace(config_of(tmp_path), rollout=rollout, eval=EvalConfig(users=2))
    with pytest.raises(Exception):  # noqa: B017, PT011 - there are no records to take means of
        tasks.validation(config)(policy_of())
    agent, setting = seen[0]
    env = setting.make()
    assert (agent.max_new_tokens, env.spec.max_episode_steps, env.unwrapped.max_turns) == (12, 3, 3)
    assert (env.unwrapped.credit, env.unwrapped.profile_weight) == ("grounded", 1.0)  # scores are those of equal weights
    assert dict(setting.env_kwargs)["cues"] == "explicit"
    assert dict(setting.env_kwargs)["style"] == "terse"
    trainer_of(tmp_path, iterations=1).run()
    agent = policy_agent(cli.policy_path(str(tmp_path / "run")))
    assert (agent.max_new_tokens, agent.chat.max_user_tokens) == (10, 96)
    assert policy_agent(tmp_path / "run" / "last" / "policy", max_new_tokens=7).max_new_tokens == 7
    policy_of().save(tmp_path / "plain" / "last" / "policy")
    (tmp_path / "plain" / "baseline.json").write_text('{"config": {"data": {"max_new_tokens": 5, "max_user_tokens": 6}}}')
    agent = policy_agent(tmp_path / "plain" / "last" / "policy")
    assert (agent.max_new_tokens, agent.chat.max_user_tokens) == (5, 6)
    policy_of().save(tmp_path / "other")
    agent = policy_agent(tmp_path / "other")
    assert (agent.max_new_tokens, agent.chat.max_user_tokens) == (160, None)


def test_chat_shows_what_the_policy_believes(tmp_path, capsys, monkeypatch):
    import io

    start = tmp_path / "start"
    policy_of().save(start)
    said = format_action([("Occupation", "baker")], "Oh, what do you bake?")
    monkeypatch.setattr(PolicyAgent, "act", lambda self, messages: said)
    monkeypatch.setattr("sys.stdin", io.StringIO("I bake.\n\n"))
    cli.main(["chat", "--policy", str(start)])
    shown = capsys.readouterr().out
    assert "Occupation: baker" in shown
    assert "Oh, what do you bake?" in shown


def test_the_command_line_trains_adapters_and_everything_else_reads_them(tmp_path, capsys):
    start, run = tmp_path / "start", tmp_path / "run"
    tiny_models.policy(context=2048, system_prompt=None).save(start)
    options = ["train", "tiny", "--model", str(start), "--out", str(run), "--rollout.dialogues", "2", "--rollout.concurrent", "2"]
    options += ["--rollout.max-turns", "2", "--rollout.max-new-tokens", "8", "--eval.every", "0", "--split", "vanilla/val"]
    options += ["--model.rollout-dtype", "bfloat16", "--model.gradient-checkpointing"]
    cli.main([*options, "--iterations", "1", "--model.lora-rank", "4"])
    with pytest.warns(UserWarning, match="follows the end of the run, which was {'iterations': 1}"):
        cli.main([*options, "--iterations", "2", "--model.lora-rank", "4", "--resume"])
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert line["kl"] == 0.0
    assert 0 < line["sampling_mismatch"] <= line["sampling_mismatch_max"] < 0.5
    policy = Policy.load(checkpointed_policy(run))
    assert policy.adapter.rank == 4
    assert policy.system_prompt == instructions(2)  # a constant, saved with the policy
    cli.main(["eval", "--policy", str(run), "--users", "1", "--dtype", "bfloat16", "--out", str(tmp_path / "eval")])
    assert str(run) in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"model\.lora_rank: expected 4"):
        cli.main([*options, "--model", str(run), "--out", str(tmp_path / "other"), "--iterations", "1"])


# arXiv 2505.15456 and the code that its authors published (a fork of OpenRLHF): "PPO" and the appendix on training.
PAPER = {
    "model": "Qwen/Qwen2.5-3B-Instruct",
    "weights trained": "all",
    "each turn": "a sample of its own",  # no credit across turns
    "gamma across turns": 0.0,
    "samples a turn": 4,  # the dialogue goes on with the best of them
    "profile blocks in the context": "latest",
    "gamma": 1.0,
    "lambda": 0.95,
    "clip": 0.2,
    "value clip": 0.2,
    "KL": (0.01, "reward"),  # k1 towards the frozen start
    "actor lr": 5e-7,
    "critic lr": 9e-6,
    "rollout batch": 256,
    "train batch": 128,
    "tokens of a micro batch": 4 * (4096 + 4096),  # four of them, prompt and completion up to 4,096 each
    "epochs": 1,
    "turns": 10,
    "precision": "bfloat16",
    "reward": "profile F1 + response",
}


def test_the_paper_preset_is_what_the_paper_says():
    preset = PRESETS["qwen2.5-3b-paper"]
    ppo, optim, rollout, model = preset.ppo, preset.optim, preset.rollout, preset.model
    assert ppo.clip_low == ppo.clip_high
    assert ppo.lam_token == ppo.lam_turn
    assert model.update_dtype == model.rollout_dtype
    assert (rollout.profile_weight, rollout.response_weight, rollout.credit, ppo.line_cost) == (1.0, 1.0, "paper", 0.0)
    assert {
        "model": model.path,
        "weights trained": "adapters" if model.lora_rank else "all",
        "each turn": {"official": "a sample of its own", "mdp": "part of a chain"}[preset.mode],
        "gamma across turns": ppo.gamma_turn,
        "samples a turn": rollout.samples,
        "profile blocks in the context": preset.context.kind,
        "gamma": ppo.gamma_token,
        "lambda": ppo.lam_token,
        "clip": ppo.clip_low,
        "value clip": ppo.value_clip,
        "KL": (ppo.beta, preset.kl_in),
        "actor lr": optim.policy_lr,
        "critic lr": optim.critic_lr,
        "rollout batch": rollout.dialogues,
        "train batch": rollout.dialogues // ppo.minibatches,
        "tokens of a micro batch": optim.token_budget,
        "epochs": ppo.epochs,
        "turns": rollout.max_turns,
        "precision": model.update_dtype,
        "reward": "profile F1 + response",
    } == PAPER


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_fits_the_context_of_its_model(tmp_path, name):
    tiny_models.policy(context=3072 if name == "tiny" else 32_768, system_prompt="" if name == "tiny" else None).save(tmp_path / "start")
    preset = PRESETS[name]
    config = dataclasses.replace(preset, model=dataclasses.replace(preset.model, path=str(tmp_path / "start")))
    policy = cli.load_policy(config, str(tmp_path / "start"))
    assert policy.chat.kept == preset.context


def test_a_run_whose_longest_dialogue_does_not_fit_its_model_is_refused_before_it_begins(tmp_path):
    tiny_models.policy(context=256).save(tmp_path / "start")
    config = config_of(tmp_path, model={"path": str(tmp_path / "start")})
    with pytest.raises(ConfigError, match=r"context: expected room for .* 3 turns x \(10 new \+ 96 user .*the model has 256"):
        cli.build_trainer(config, quiet=True)


def test_unknown_presets_name_the_choices():
    with pytest.raises(SystemExit, match="expected one of tiny"):
        cli.main(["train", "huge"])


def test_figures_of_every_turn_are_those_counted_by_hand():
    def held(*turns, left=False):
        made = []
        for profile, reply, reward, stop in turns:
            ids = np.zeros(profile + reply, np.int64)
            made.append(Turn(ids[:1], ids, np.zeros(len(ids), np.float32), reward, {"reward/profile": 0.0, "tokens/profile": profile}, stop=stop))
        said = [("assistant", format_action([("Age", str(30 + i)) for i in range(k)], "Hi.")) for k, _ in enumerate(turns)]
        return Trajectory(tuple(made), np.arange(1), left, not left, "user_left" if left else "", messages=(("user", "Hello"), *said))

    figures = rollout_figures([held((4, 6, 1.0, "eos"), (2, 2, 3.0, "length")), held((0, 2, 2.0, "length"), left=True)], max_turns=3)
    assert figures["by_turn/return"] == [1.5, 1.5, 0.0]
    assert sum(figures["by_turn/return"]) == figures["return"]
    assert figures["by_turn/length_stops"] == [0.5, 1.0, 0.0]
    assert figures["by_turn/action_tokens"] == [6.0, 4.0, 0.0]
    assert figures["by_turn/profile_tokens"] == [2.0, 2.0, 0.0]
    assert figures["by_turn/reply_tokens"] == [4.0, 2.0, 0.0]
    assert figures["by_turn/guessed_points"] == [0.0, 1.0, 0.0]
    assert figures["by_turn/left_early"] == [0.5, 0.0, 0.0]
    assert figures["left_early"] == 0.5


def test_kl_and_entropy_of_every_turn_are_means_over_its_tokens():
    logp = [np.array([-1.0, -2.0]), np.array([-3.0]), np.array([-4.0])]
    turns = [Turn(np.array([1]), np.zeros(len(a), np.int64), a.astype(np.float32), 1.0) for a in logp]
    talks = [Trajectory((turns[0], dataclasses.replace(turns[1], context_ids=np.array([2]))), np.arange(1), True, False)]
    talks.append(Trajectory((turns[2],), np.arange(1), True, False))
    batch = make_batch(talks, max_turns=3)
    old, zeros = torch.tensor([1.0, 2.0, 5.0, 6.0]), torch.zeros(4)
    figures = update_figures(batch, Estimates(old, zeros, None, zeros, zeros, zeros, None), UpdateStats())
    assert figures["by_turn/kl"] == [3.0, 5.0]
    assert figures["by_turn/entropy"] == pytest.approx([7 / 3, 3.0])


def test_what_the_policy_is_not_asked_while_the_critic_warms_up_is_not_logged(tmp_path):
    trainer = trainer_of(tmp_path, ppo={"critic_warmup": 1})
    of_policy = {"policy_loss", "clip_fraction", "entropy"}
    first, second = trainer.one_iteration(), trainer.one_iteration()
    assert not of_policy & first.keys()
    assert of_policy <= second.keys()
    assert second["entropy"] > 0


def test_what_the_critic_explains_is_told_for_every_turn():
    """Two dialogues: in the first turn values are right, in the second they are all the same."""
    talks = []
    for _ in range(2):
        turns = [Turn(np.arange(1 + 2 * k), np.array([5]), np.zeros(1, np.float32), 1.0) for k in range(2)]
        talks.append(Trajectory(tuple(turns), np.arange(9), True, False))
    zeros = torch.zeros(4)
    values, returns = torch.tensor([1.0, 5.0, 3.0, 5.0]), torch.tensor([1.0, 4.0, 3.0, 6.0])
    figures = update_figures(make_batch(talks, max_turns=2), Estimates(zeros, zeros, values, zeros, zeros, returns, None), UpdateStats())
    assert figures["by_turn/explained_variance"] == [1.0, 0.0]


def test_the_most_common_reply_is_looked_for_after_the_first_turn():
    def held(*replies):
        said = [("assistant", f"<profile>\n</profile>\n\n<response>\n{reply}\n</response>") for reply in replies]
        return Trajectory((), np.arange(1), False, True, messages=(("user", "Hello"), *said))

    figures = rollout_figures([held("Hi.", "a b", "c d"), held("Hi.", "a b", "e f"), held("Hi.")], max_turns=3)
    assert figures["most_common_reply"] == 0.5  # "a b", twice in four
    assert figures["distinct_2"] == 0.75  # a-b, c-d and e-f in four pairs of words
    assert rollout_figures([held("Hi.")], max_turns=3)["most_common_reply"] == 0.0


def test_the_share_of_the_block_is_that_of_its_characters_however_its_tag_is_written():
    texts = ["<profile>\n- Job: baker\n</Profile >" + "x" * 34, "no block at all, so none of its 68 characters counts".ljust(68)]
    held = Trajectory((), np.arange(1), False, True, messages=(("user", "Hello"), *(("assistant", text) for text in texts)))
    assert [len(text) for text in texts] == [68, 68]
    assert rollout_figures([held], max_turns=2)["profile_share"] == 0.25


def test_what_a_failure_left_unscored_counts_nowhere_and_who_left_counts_0():
    def held(*rewards, failed=False, left=False):
        one = np.zeros(1, np.int64)
        turns = [Turn(one, one, np.zeros(1, np.float32), reward, {"reward/profile": reward / 2}) for reward in rewards]
        if failed:
            turns.append(Turn(one, one, np.zeros(1, np.float32), 0.0, valid=False))
        return Trajectory(tuple(turns), one, left, not left, "failure" if failed else "")

    good = rollout_figures([held(1.0, 1.0)], max_turns=2)
    assert (good["return"], good["reward/profile"], good["failures"]) == (2.0, 0.5, 0)
    for cut in (held(failed=True), held(1.0, failed=True)):
        figures = rollout_figures([held(1.0, 1.0), cut], max_turns=2)
        assert (figures["return"], figures["reward/profile"], figures["failures"]) == (2.0, 0.5, 1)
        assert (figures["return_std"], figures["by_turn/return"]) == (0.0, [1.0, 1.0])
    figures = rollout_figures([held(1.0, 1.0), held(1.0, left=True)], max_turns=2)
    assert (figures["return"], figures["reward/profile"], figures["by_turn/return"]) == (1.5, 0.375, [1.0, 0.5])


def test_a_rollout_without_a_single_reward_ends_the_run_and_says_what_to_do(tmp_path):
    trainer = trainer_of(tmp_path)
    none = np.zeros(1, np.int64)
    unscored = Trajectory((Turn(none, none, np.zeros(1, np.float32), 0.0, valid=False),), none, False, True, "failure")
    trainer.gather = lambda log=None: ([unscored] * 4, RolloutCounts())
    with pytest.raises(NothingScoredError, match=r"(?s)iteration 1: .* in 4 dialogues; .*stop reason: failure.*--resume"):
        trainer.run()
    assert holds_model(checkpointed_policy(trainer.config.out))


@pytest.mark.parametrize(("algo", "learns"), [("ppo", True), ("reinforce", False), ("rloo", False)])
def test_what_a_failure_left_of_a_dialogue_is_for_a_critic_alone(tmp_path, algo, learns):
    trainer = trainer_of(tmp_path, algo=algo, iterations=1)
    held, counts = trainer.gather()
    torsos = [dataclasses.replace(one, turns=(one.turns[0], dataclasses.replace(one.turns[1], valid=False)), stop_reason="failure") for one in held]
    trainer.gather = lambda log=None: (torsos, counts)
    if learns:
        assert trainer.one_iteration()["optimizer_steps"] > 0
    else:
        with pytest.raises(NothingScoredError):
            trainer.one_iteration()


def test_a_server_that_fails_during_a_rollout_leaves_the_iterations_before_it(tmp_path):
    trainer = trainer_of(tmp_path, iterations=3)
    gather = trainer.gather

    def fails_later(log=None):
        if trainer.iteration == 2:
            raise GeneratorError("no answer in 3 tries")
        return gather(log)

    trainer.gather = fails_later
    with pytest.raises(GeneratorError):
        trainer.run()
    assert read_state(trainer.last)["iteration"] == 2


def test_the_end_of_a_run_competes_for_the_best_policy(tmp_path):
    """Be it at an iteration at which nobody looks otherwise."""
    returns = iter([1.0, 2.0, 3.0])
    config = dataclasses.replace(config_of(tmp_path, iterations=3), eval=EvalConfig(every=2))
    trainer = Trainer(config, policy_of(), make_env, lambda policy: {"return": next(returns)}, quiet=True)
    trainer.run()
    out = trainer.config.out
    assert [json.loads(line)["iteration"] for line in (out / "validation.jsonl").read_text().splitlines()] == [0, 2, 3]
    assert json.loads((out / "best" / "state.json").read_text())["iteration"] == 3
