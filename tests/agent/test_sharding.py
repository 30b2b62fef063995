"""A policy spread over two processes learns what one process learns, holds half of it, and leaves the same files."""

from __future__ import annotations

import atexit
import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from test_world import launch, nothing_is_left
from tiny_models import Script
from toy import toy_config
from transformers import LlamaConfig

from rlpa_agent import cli
from rlpa_agent.batch import make_batch
from rlpa_agent.config import EvalConfig
from rlpa_agent.dry_run import predict
from rlpa_agent.estimates import UpdateStats
from rlpa_agent.generation import decoder
from rlpa_agent.learner import Learner
from rlpa_agent.lora import LoraSettings
from rlpa_agent.policy import Policy
from rlpa_agent.sharding import full, local
from rlpa_agent.trainer import Trainer
from rlpa_agent.trajectory import Trajectory, Turn
from rlpa_agent.world import ALONE, World
from rlpa_env import ConfigError

KINDS = ("full", "llama", "lora", "later", "bf16")
"""Tied embeddings; untied ones, and a critic that moves the trunk; fresh adapters; adapters that have learned; autocast with recomputed layers."""

SMOOTH = {"eps": 1e-4}
"""Adam divides by the size of a gradient: with the usual eps one that is 0 but for rounding moves its weight by the full rate."""


def policy_of(kind: str, out: Path) -> Policy:
    """A small policy whose reference is another model than itself: with LoRA its base or, "later", what the adapters once were."""
    if kind in ("full", "bf16"):
        policy = tiny_models.policy(context=1024, max_user_tokens=96, gradient_checkpointing=kind == "bf16")
    elif kind == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = LlamaConfig(vocab_size=520, initializer_range=0.1, tie_word_embeddings=False, **sizes)
        policy = Policy.from_config(config, tiny_models.tokenizer(), system_prompt="", value_grad="shared")
    else:
        policy = Policy.from_pretrained(out / "base", lora=LoraSettings(4, 8), dtype=torch.float32, max_user_tokens=96)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2 if kind == "later" else 1):
        if kind != "lora":
            policy.freeze_reference()
        with torch.no_grad():
            for parameter in policy.parameters_policy():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


def batch_of(policy: Policy):
    """Five dialogues of one row each, of which three go on behind their end."""
    rng, context = np.random.default_rng(0), policy.chat.opening([("user", "Hello")])
    trajectories = []
    for number in range(5):
        ids = rng.integers(5, 400, size=3 + number)
        turn = Turn(context, ids, np.zeros(len(ids), np.float32), float(number % 3))
        trajectories.append(Trajectory((turn,), np.concatenate([context, ids, context]), number % 2 == 1, number % 2 == 0))
    return make_batch(trajectories, max_turns=10, horizon="truncate")


def measured(kind: str, out: Path, world: World) -> dict[str, torch.Tensor]:
    """Gradient of a clipped step, its norm, values, and weights and Adam states after a whole update; the bytes that are held."""
    policy = policy_of(kind, out)
    before = size_of(policy)
    if world.size > 1:
        policy.shard(world)
        policy.load_reference({name: full(value) for name, value in policy.reference_tensors().items()})  # as a run that is resumed
    dtype = "bfloat16" if kind == "bf16" else "float32"
    config = toy_config(
        out,
        10,
        model={"update_dtype": dtype, "value_grad": policy.value_grad},
        ppo={"horizon": "truncate", "minibatches": 2, "epochs": 2, "beta": 0.1, "kl_in": "loss"},
        optim={"token_budget": 1, "max_grad_norm": 0.1, **SMOOTH},
    )
    batch, learner, stats = batch_of(policy), Learner(policy, config, world), UpdateStats()
    estimates = learner.estimate(batch, 0)
    held = torch.tensor(world.gathered([size_of(policy) / before]))  # after forwards that no backward follows
    assert int(batch.bootstrapped_C.sum()) == 3
    before = policy.whole()  # of the same weights: those that have learned agree to 1e-6, and what is computed from them to less
    decoded = decoder(before.lm, 1, 64).prefill([0], [before.chat.opening([("user", "Well?")])]).float()
    assert learner._step(batch, [0, 1, 2], estimates, stats, critic_only=False, first=True)  # the second process has one row of the three
    assert stats.first_ratio_error == 0.0
    found = {f"gradient.{name}": full(p.grad) for name, p in policy.lm.named_parameters() if p.requires_grad}
    found |= {"norm": torch.tensor(stats.grad_norm), "ref": estimates.logp_ref_A, "values": estimates.values_A, "boot": estimates.bootstrap_C, "held": held, "decoded": decoded}
    learner._step(batch, [0, 1, 2], estimates, stats, critic_only=True, first=False)  # forwards that no backward follows
    learner.update(batch, 0)
    found |= {f"weight.{name}": full(p.detach()) for name, p in policy.lm.named_parameters() if p.requires_grad}
    states = learner.optimizers["policy"].state_dict()["state"]
    found |= {f"state.{i}.{name}": full(value) for i, entry in states.items() for name, value in entry.items()}
    plain = policy.whole()
    gathered = dict(plain.lm.named_parameters())
    assert all(torch.equal(gathered[name], full(p.detach())) for name, p in policy.lm.named_parameters() if p.requires_grad)
    if plain.adapter is not None:
        found |= {f"start.{name}": value for name, value in plain.adapter.start().items()}
        assert any(name.startswith("start") for name in found) == (kind == "later")
    return {name: value.clone().contiguous() for name, value in found.items()}


def size_of(policy: Policy) -> int:
    """Bytes that this process holds of the layers and of those of a reference that is a model."""
    models = [policy.lm, *([policy.reference] if isinstance(policy.reference, torch.nn.Module) else [])]
    kept = {id(part.weight) for lm in models for part in (lm.get_input_embeddings(), lm.get_output_embeddings())}
    parameters = [p for lm in models for name, p in lm.named_parameters() if id(p) not in kept and "lora" not in name]
    return sum(local(p).numel() * p.element_size() for p in parameters)


def trainer_of(kind: str, out: Path, name: str, world: World, shard: bool, iterations: int, resume: bool = False) -> Trainer:
    """As `cli.build_trainer` makes one, in a little world; it is paid for the length of what it says."""
    options = {"max_user_tokens": 96, "dtype": torch.float32}
    policy = Policy.load(out / name / "run" / "last" / "policy", **options) if resume else policy_of(kind, out)
    if shard:
        policy.shard(world)
    config = toy_config(
        out / name,
        3,
        iterations=iterations,
        model={"shard": shard, "lora_rank": 4 if kind == "lora" else 0},
        rollout={"dialogues": 3, "concurrent": 3, "max_new_tokens": 6},
        ppo={"minibatches": 1, "critic_steps": 2, "beta": 0.01, "max_kl": 1e3},
        optim={"token_budget": 1, **SMOOTH},
    )
    config = dataclasses.replace(config, eval=EvalConfig(every=1))

    def make_env():
        return Script(("Well, I bake.", "No."), turns=3, pay=lambda text, turn: float(len(text) % 3))

    def evaluate(policy):
        """Only the first process is asked, so a model that has to be gathered would stand still here."""
        with torch.no_grad():
            logits = policy.lm(input_ids=torch.arange(40)[None]).logits
        return {"return": float(logits.square().mean())}

    trainer = Trainer(config, policy, make_env, evaluate, quiet=True, world=world)
    if resume:
        trainer.resume()
    return trainer


def main(out: str) -> None:
    """What two processes do for all tests of this file."""
    torch.set_num_threads(1)
    folder, world = Path(out), World.from_environment()
    for kind in KINDS:
        found = measured(kind, folder, world)
        if world.first:
            save_file(found, folder / f"two-{kind}.safetensors")
    for kind in ("full", "lora"):
        trainer_of(kind, folder, f"{kind}-plain", world, False, 2).run()
        trainer_of(kind, folder, f"{kind}-sharded", world, True, 2).run()
        trainer_of(kind, folder, f"{kind}-resumed", world, True, 1).run()
        world.any(False)  # till the first process has written what both read
        trainer_of(kind, folder, f"{kind}-resumed", world, True, 2, resume=True).run()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folder with what two processes left."""
    out = tmp_path_factory.mktemp("two")
    tiny_models.policy(context=1024, sharpness=2.0).save(out / "base")
    assert launch(2, out, script=__file__) == [0, 0]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_an_update_are_those_of_one_process(two, kind):
    """One process has a micro-batch less, and a state behind the end less."""
    both, one = load_file(two / f"two-{kind}.safetensors"), measured(kind, two, ALONE)
    assert both.keys() == one.keys()
    gradients = [name for name in one if name.startswith("gradient")]
    assert max(float(one[name].abs().max()) for name in gradients) > 1e-3
    assert float(one["norm"]) > 0.1  # so that the clipping has something to do
    same = [*gradients, "norm", "ref", "values", "boot"] if kind == "bf16" else [name for name in one if name != "held"]
    for name in same:
        torch.testing.assert_close(both[name], one[name], rtol=1e-6, atol=1e-6 if kind != "bf16" else 1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_holds_half_of_the_layers_and_of_the_reference(two, kind):
    shares = load_file(two / f"two-{kind}.safetensors")["held"].tolist()
    assert sum(shares) == pytest.approx(1.0, abs=1e-6)
    assert max(shares) < 0.52


def records(run: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_sharded_run_is_a_run_and_leaves_the_same_files(two, kind):
    plain, sharded = (two / f"{kind}-{name}" / "run" for name in ("plain", "sharded"))
    for one, other in zip(records(plain, "metrics.jsonl"), records(sharded, "metrics.jsonl"), strict=True):
        assert one["return"] == other["return"]  # the very same dialogues
        for key in ("policy_loss", "value_loss", "approx_kl", "grad_norm", "kl", "explained_variance", "action_tokens", "real_tokens"):
            if key in one:
                assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), key
    for one, other in zip(records(plain, "validation.jsonl"), records(sharded, "validation.jsonl"), strict=True):
        assert one["return"] == pytest.approx(other["return"], abs=1e-5)
    names = sorted(str(path.relative_to(plain)) for folder in ("last", "best") for path in (plain / folder).rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(sharded)) for folder in ("last", "best") for path in (sharded / folder).rglob("*") if path.is_file())
    weights = "adapter_model" if kind == "lora" else "model"
    for file in ("last/state", f"last/policy/{weights}", f"best/policy/{weights}"):
        one, other = (load_file(run / f"{file}.safetensors") for run in (plain, sharded))
        assert {name: (value.shape, value.dtype) for name, value in one.items()} == {name: (value.shape, value.dtype) for name, value in other.items()}
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-6, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_stopped_and_resumed_by_as_many_processes_it_is_bitwise_the_same_run(two, kind):
    whole, resumed = (two / f"{kind}-{name}" / "run" / "last" for name in ("sharded", "resumed"))
    weights = "adapter_model" if kind == "lora" else "model"
    for file in ("state.safetensors", "state.json", f"policy/{weights}.safetensors", "policy/value_head.weights"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes(), file


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_one_process_resumes_what_two_have_sharded(two, kind):
    last = two / f"{kind}-sharded" / "run" / "last"
    trainer = trainer_of(kind, two, f"{kind}-sharded", ALONE, False, 3, resume=True)
    weights = load_file(last / "policy" / ("adapter_model.safetensors" if kind == "lora" else "model.safetensors"))
    held = {name.replace(".default", ""): p for name, p in trainer.policy.lm.named_parameters()}
    assert all(torch.equal(held[name.removeprefix("base_model.model.")], value) for name, value in weights.items())
    tensors, states = load_file(last / "state.safetensors"), trainer.learner.optimizers["policy"].state_dict()["state"]
    assert len(states) == len(list(trainer.policy.parameters_policy()))
    for index, entry in states.items():
        assert float(entry["step"]) == 4  # two epochs in each of two iterations
        assert all(torch.equal(value, tensors[f"policy.{index}.{name}"]) for name, value in entry.items())
    reference = {f"reference.{name}": value for name, value in trainer.policy.reference_tensors().items()}
    assert reference.keys() == {name for name in tensors if name.startswith("reference")}
    assert all(torch.equal(value, tensors[name]) for name, value in reference.items())
    assert bool(reference) == (kind == "full")  # where adapters were fresh it is the base


def test_what_cannot_be_sharded_says_so(tmp_path):
    policy = tiny_models.policy(context=2048, system_prompt=None)
    with pytest.raises(ConfigError, match="expected several processes"):
        policy.shard(ALONE)
    policy.save(tmp_path / "start")
    config = dataclasses.replace(toy_config(tmp_path, 3, model={"path": str(tmp_path / "start"), "shard": True}), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="expected several processes"):
        cli.build_trainer(config, quiet=True)
    assert policy.whole() is policy
    policy.shards = object()
    groups = Learner(policy, config).optimizers["policy"].param_groups
    assert [group["foreach"] for group in groups] == [False]
    with pytest.raises(ConfigError, match="save: expected a policy that this process holds whole"):
        policy.save(tmp_path / "shares")
    with pytest.raises(ConfigError, match="dry run: expected a model that one process holds"):
        predict(SimpleNamespace(policy=policy, config=config))
    policy.lm.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match="its 7 layers in a list; Qwen2ForCausalLM has none"):
        policy.shard(World(0, 2))


if __name__ == "__main__":
    atexit.register(nothing_is_left)  # the first that is registered is called last
    main(*sys.argv[1:])
