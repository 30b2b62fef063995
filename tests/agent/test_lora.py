"""LoRA: the reference is the start without a copy of the model, what is saved loads elsewhere, decoding sees the adapters."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny_models
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import Script
from toy import toy_config
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from rlpa_agent import generation
from rlpa_agent.batch import make_batch
from rlpa_agent.generation import GenericDecoder, Qwen2Decoder, Sampler, decoder
from rlpa_agent.learner import Learner
from rlpa_agent.loading import _bf16_is_fast
from rlpa_agent.lora import LoraSettings, merged
from rlpa_agent.policy import Policy
from rlpa_agent.rollout import collect
from rlpa_env import ConfigError

torch.set_num_threads(1)

LINES = ("Well, I bake.", "My sister is the nurse in the family, you know", "No.")
SETTINGS = LoraSettings(rank=4, alpha=8)


def base_folder(tmp_path, dtype=torch.float32):
    """A tiny model on disk, its weights in ``dtype``."""
    folder = tmp_path / "base"
    if not folder.exists():
        tiny_models.policy(sharpness=2.0).save(folder, dtype=dtype)
    return folder


def lora_policy(tmp_path, dtype=torch.float32, **options):
    return Policy.from_pretrained(base_folder(tmp_path, dtype), lora=SETTINGS, **options)


def trained(policy, seed=0, size=0.3):
    """Give the adapters an effect, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters_policy():
            parameter.normal_(std=size, generator=generator)
    return policy


def place(length=40):
    ids = torch.randint(0, 500, (1, length), generator=torch.Generator().manual_seed(1))
    pos = torch.arange(1, length)
    return ids, torch.tensor([length]), torch.zeros_like(pos), pos


def logp(policy):
    where = place()
    with torch.no_grad():
        return policy.score(*where, where[3] / 40, temperature=0.9, need=("logp",)).logp


def reference(policy):
    return policy.reference_logp(*place(), temperature=0.9)


@pytest.fixture(autouse=True)
def any_processor(monkeypatch, request):
    """What is shown here holds on processors that are slow in bf16, too."""
    if "processor" not in request.fixturenames:
        monkeypatch.setattr("rlpa_agent.policy.frozen_dtype", lambda device: "auto")


@pytest.fixture
def processor(monkeypatch):
    """A processor that multiplies faster in the type that is asked for."""
    def of(faster):
        _bf16_is_fast.cache_clear()
        monkeypatch.setattr("rlpa_agent.loading.faster_dtype", lambda width: faster)

    yield of
    _bf16_is_fast.cache_clear()


def test_a_frozen_base_is_held_in_what_multiplies_faster(tmp_path, processor):
    """A base in bf16 on a processor without it took 140 times as long."""
    folder = base_folder(tmp_path, torch.bfloat16)
    for faster, dtype, asked in (("float32", torch.float32, None), ("bfloat16", torch.bfloat16, None), ("float32", torch.bfloat16, torch.bfloat16)):
        processor(faster)
        policy = Policy.from_pretrained(folder, lora=LoraSettings(rank=4), dtype=asked)
        assert policy.lm.get_output_embeddings().weight.dtype == policy.rollout_dtype == dtype
        policy.save(tmp_path / f"{faster}-{dtype}")
        again = Policy.load(tmp_path / f"{faster}-{dtype}", dtype=asked)
        assert again.rollout_dtype == dtype


def test_sampled_logp_are_refused_where_the_base_is_bf16_though_sampling_and_autocast_are_not(tmp_path):
    policy = lora_policy(tmp_path, torch.bfloat16, rollout_dtype=torch.float32)
    config = toy_config(tmp_path, 3, ppo={"old_logp": "sampled"}, model={"update_dtype": "float32", "lora_rank": 4})
    with pytest.raises(ConfigError, match="got 'sampled' with base_dtype bfloat16"):
        Learner(policy, config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_T21_the_reference_is_the_base_model_bitwise_and_takes_no_copy(tmp_path, dtype):
    base = Policy.from_pretrained(base_folder(tmp_path, dtype), dtype=dtype, reference=False)
    policy = lora_policy(tmp_path, dtype)
    assert torch.equal(logp(policy), logp(base))  # B is 0 at the start
    trained(policy)
    now = logp(policy)
    assert not torch.allclose(now, logp(base), atol=1e-2)
    assert torch.equal(reference(policy), logp(base))
    assert torch.equal(logp(policy), now)  # switched on again
    assert policy.reference is policy.adapter
    sizes = [sum(p.numel() for p in model.parameters()) for model in (policy.lm, base.lm)]
    # A and B of rank 4: (32 + 32) q, o; (32 + 16) k, v; (32 + 64) gate, up, down; two layers
    assert sizes[0] - sizes[1] == 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96) == sum(p.numel() for p in policy.parameters_policy())


@pytest.mark.parametrize("again", [False, True])
def test_T21_adapters_are_on_again_after_an_exception(tmp_path, monkeypatch, again):
    policy = trained(lora_policy(tmp_path))
    if again:  # a reference that is an adapter itself
        policy.freeze_reference()
        trained(policy, seed=1)
    now, wanted = logp(policy), [p.requires_grad for p in policy.lm.parameters()]
    forward = policy._hidden

    def broken(*arguments):
        forward(*arguments)
        raise RuntimeError("no memory")

    monkeypatch.setattr(policy, "_hidden", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        reference(policy)
    monkeypatch.undo()
    assert torch.equal(logp(policy), now)
    assert [p.requires_grad for p in policy.lm.parameters()] == wanted


def test_T21_a_pretrained_adapter_starts_from_a_frozen_copy(tmp_path):
    first = trained(lora_policy(tmp_path))
    start = logp(first)
    first.save(tmp_path / "adapter")
    policy = Policy.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logp(policy), start)
    assert torch.equal(reference(policy), start)  # the anchor is this start, not the base
    trainable = sum(p.numel() for p in policy.parameters_policy())
    trained(policy, seed=5)
    assert torch.equal(reference(policy), start)
    assert not torch.allclose(logp(policy), start, atol=1e-2)
    assert trainable == sum(p.numel() for p in policy.parameters_policy()) == 4096  # the copy is frozen
    policy.save(tmp_path / "later")
    assert len(load_file(tmp_path / "later" / "adapter_model.safetensors")) == 2 * 7 * 2  # and not saved with the policy


def test_precisions_and_what_an_update_moves(tmp_path):
    """Base bf16 and still; adapters, head and both optimizers fp32; LM head and embeddings without adapters."""
    policy = lora_policy(tmp_path, torch.bfloat16, gradient_checkpointing=True)
    frozen = {name: p.clone() for name, p in policy.lm.named_parameters() if not p.requires_grad}
    moving = {name: p.clone() for name, p in policy.lm.named_parameters() if p.requires_grad}
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16}
    assert {p.dtype for p in (*moving.values(), *policy.parameters_value())} == {torch.float32}
    places = {name.partition(".lora_")[0].rpartition(".")[2] for name in moving}
    assert places == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    envs = [Script(LINES, turns=3, pay=lambda text, turn: float(len(text) % 3)) for _ in range(3)]
    batch = make_batch(collect(policy, envs, seeds=range(4), max_new_tokens=12, max_turns=3), max_turns=3)
    config = toy_config(tmp_path, 3, optim={"token_budget": 300}, ppo={"critic_warmup": 0, "target_kl": None})
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, update_dtype="bfloat16", lora_rank=4))
    learner = Learner(policy, config)
    estimates, stats = learner.update(batch, 0)
    assert stats.steps > 1
    assert stats.first_ratio_error == 0.0  # T10, with bf16 and checkpointing
    assert torch.equal(estimates.logp_old_A, estimates.logp_ref_A)
    now = dict(policy.lm.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())
    moved = [not torch.equal(now[name], before) for name, before in moving.items()]
    assert all(moved)
    for optimizer in learner.optimizers.values():
        assert {value.dtype for entry in optimizer.state.values() for value in entry.values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks by the old name
def test_a_saved_adapter_loads_in_peft_and_transformers_and_comes_back_byte_for_byte(tmp_path):
    policy = trained(lora_policy(tmp_path, temperature=0.7, system_prompt="Learn who they are."))
    folder = tmp_path / "policy"
    policy.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "generation_config.json",
        "system_prompt.txt", "tokenizer.json", "tokenizer_config.json", "value_head.weights",
    ]  # fmt: skip
    keys = load_file(folder / "adapter_model.safetensors")
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in keys
    assert len(keys) == 28
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)  # a set inside peft, whose order differs between processes
    with torch.no_grad():
        expected = policy.lm(input_ids=place()[0]).logits
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(plain.eval()(input_ids=place()[0]).logits, expected)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        assert torch.equal(PeftModel.from_pretrained(base, folder).eval()(input_ids=place()[0]).logits, expected)
    again = Policy.load(folder)
    assert (again.temperature, again.system_prompt) == (0.7, "Learn who they are.")
    again.save(tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def rescored(policy, trajectory):
    ids = torch.tensor(trajectory.final_context_ids)
    pos = torch.tensor([len(t.context_ids) + j for t in trajectory.turns for j in range(len(t.action_ids))])
    where = (ids[None], torch.tensor([len(ids)]), torch.zeros_like(pos), pos, torch.zeros(len(pos)))
    return policy.score(*where, temperature=1.0, need=("logp",)).logp.detach().numpy()


def play(policy, n=5, envs=3):
    return collect(policy, [Script(LINES, turns=4) for _ in range(envs)], seeds=range(n), max_new_tokens=24, temperature=1.0)


def differences(policy):
    return np.concatenate([np.concatenate([turn.logp for turn in t.turns]) - rescored(policy, t) for t in play(policy)])


@pytest.mark.parametrize("kind", [Qwen2Decoder, GenericDecoder])
def test_T8_decoding_sees_the_adapters_and_leaves_the_weights_alone(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(generation, "Qwen2Decoder", kind)
    policy = trained(lora_policy(tmp_path))
    before = {name: p.clone() for name, p in policy.lm.named_parameters()}
    assert np.abs(differences(policy)).max() <= 1e-4
    assert all(torch.equal(p, before[name]) for name, p in policy.lm.named_parameters())
    with policy.adapter.reference():  # adapters off: decoding speaks as the base
        as_base = play(policy, 1)[0]
    base = Policy.from_pretrained(tmp_path / "base", reference=False)
    assert as_base.final_context_ids.tolist() == play(base, 1)[0].final_context_ids.tolist()
    assert as_base.final_context_ids.tolist() != play(policy, 1)[0].final_context_ids.tolist()


@pytest.mark.parametrize("kind", [Qwen2Decoder, GenericDecoder])
def test_T8_bf16_rollouts_of_an_fp32_update_are_close(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(generation, "Qwen2Decoder", kind)
    policy = trained(lora_policy(tmp_path, rollout_dtype=torch.bfloat16))
    assert decoder(policy.lm, 1, 64, policy.rollout_dtype).dtype == torch.bfloat16
    gap = np.abs(differences(policy))
    print(f"bf16 {kind.__name__}: mean {gap.mean():.4f}, max {gap.max():.4f}")
    assert 1e-5 < gap.mean() < 0.05
    assert gap.max() < 0.5


def test_bf16_rollouts_share_the_head_of_a_bf16_base(tmp_path):
    policy = lora_policy(tmp_path, torch.bfloat16)
    assert policy.rollout_dtype == torch.bfloat16
    sampler = Sampler(policy.lm, policy.banned_V, 2, 1.0, policy.rollout_dtype)
    assert sampler.head.weight.data_ptr() == policy.lm.lm_head.weight.data_ptr()


def test_a_merged_copy_computes_the_same_without_adapters(tmp_path):
    policy = trained(lora_policy(tmp_path))
    twin = merged(policy.lm, torch.float32)
    assert not any("lora" in name for name, _ in twin.named_modules())
    with torch.no_grad():
        expected = policy.lm(input_ids=place()[0]).logits
        assert torch.allclose(twin(input_ids=place()[0]).logits, expected, atol=1e-4)
        assert torch.equal(policy.lm(input_ids=place()[0]).logits, expected)


def test_a_cache_holds_what_its_rows_need_and_grows_without_a_trace(tmp_path, monkeypatch):
    policy = tiny_models.policy(context=32_768)
    held = []
    grow = generation._Cache.reserve

    def watched(self, positions):
        grow(self, positions)
        held.append(self.held)

    monkeypatch.setattr(generation._Cache, "reserve", watched)
    monkeypatch.setattr(generation, "GROWTH", 512)
    whole = play(policy)
    longest = max(len(t.final_context_ids) for t in whole)
    assert max(held) == generation.GROWTH > longest
    held.clear()
    monkeypatch.setattr(generation, "GROWTH", 16)
    small = play(policy)
    assert len(set(held)) > 5
    assert max(held) < longest * 1.5 + 16
    for a, b in zip(whole, small, strict=True):
        assert a.final_context_ids.tolist() == b.final_context_ids.tolist()
        assert all(np.allclose(x.logp, y.logp, atol=1e-5) for x, y in zip(a.turns, b.turns, strict=True))


def test_gradient_checkpointing_recomputes_in_updates_only_and_changes_no_gradient(tmp_path):
    gradients = []
    for flag in (False, True):
        policy = trained(lora_policy(tmp_path, gradient_checkpointing=flag))
        calls = []
        if flag:
            for layer in policy.lm.model.layers:
                inner = layer._gradient_checkpointing_func
                layer._gradient_checkpointing_func = lambda *a, inner=inner, calls=calls, **k: calls.append(0) or inner(*a, **k)
        play(policy, 1)
        logp(policy)
        reference(policy)
        assert not calls
        where = place()
        policy.score(*where, where[3] / 40, temperature=0.9, need=("logp",)).logp.sum().backward()
        assert len(calls) == (2 if flag else 0)
        assert not policy.lm.training
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters_policy()]))
    assert torch.equal(*gradients)
    assert float(gradients[0].abs().max()) > 0


def test_other_models_and_folders_are_taken_or_refused_by_name(tmp_path):
    small = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    llama = LlamaConfig(**small, num_attention_heads=2, num_key_value_heads=2, initializer_range=0.2)
    Policy.from_config(llama, tiny_models.tokenizer(), system_prompt="").save(tmp_path / "llama")
    policy = trained(Policy.from_pretrained(tmp_path / "llama", lora=SETTINGS))
    assert np.abs(differences(policy)).max() <= 1e-4  # the generic decoder
    gpt = GPT2Config(vocab_size=512, n_embd=32, n_layer=1, n_head=2, n_positions=128)
    Policy.from_config(gpt, tiny_models.tokenizer(), system_prompt="").save(tmp_path / "gpt")
    with pytest.raises(ConfigError, match="GPT2LMHeadModel has no q_proj"):
        Policy.from_pretrained(tmp_path / "gpt", lora=SETTINGS)
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        LoraSettings(rank=0)
    folder = tmp_path / "policy"
    lora_policy(tmp_path).save(folder)
    with pytest.raises(ConfigError, match=r"expected rank 4, that of the adapter in .*; got 8"):
        Policy.from_pretrained(folder, lora=LoraSettings(rank=8))
    config = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(config.replace('"bias": "none"', '"bias": "all"'))
    with pytest.raises(ConfigError, match="bias='all'"):
        Policy.from_pretrained(folder)
    (folder / "adapter_config.json").write_text(config.replace('"q_proj",', ""))
    with pytest.raises(ConfigError, match=r"unexpected .*q_proj"):
        Policy.from_pretrained(folder)
    (folder / "adapter_config.json").write_text(config.replace(str(tmp_path / "base"), str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match="gone"):
        Policy.from_pretrained(folder)
