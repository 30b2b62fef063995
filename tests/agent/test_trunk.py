"""What the last layer leaves out changes no score and no gradient, and is really left out."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import tiny_models
import torch
from test_lora import lora_policy
from torch import nn
from transformers import GPT2Config, LlamaConfig

from rlpa_agent import policy as policy_module
from rlpa_agent.policy import STRIDE, Policy
from rlpa_agent.trunk import last_layer_at, layers_of

SHAPE = {"vocab_size": 520, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
LENGTHS = torch.tensor([40, 33])
ROWS, POS = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3, 17, 35, 9, 32])


def scored(policy):
    """Score five tokens of two rows, one of which is read up to its end."""
    ids = torch.randint(0, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    return policy.score(ids, LENGTHS, ROWS, POS, torch.full((5,), 0.3), temperature=1.0, need=("logp", "value", "entropy"))


def gradients(policy):
    """Of something that depends on every score."""
    with torch.no_grad():
        policy.value_head.outer.weight.copy_(torch.linspace(-1, 1, policy.value_head.outer.weight.numel()).view_as(policy.value_head.outer.weight))
    result = scored(policy)
    (result.logp @ torch.arange(5.0) + result.value.sum() + result.entropy.sum()).backward()
    found = {name: p.grad for name, p in (*policy.lm.named_parameters(), *policy.value_head.named_parameters()) if p.grad is not None}
    return result, found


def tokens_of(policy, work):
    """How many tokens every module of ``policy`` saw while ``work`` ran."""
    seen: dict[str, int] = {}

    def note(name):
        def hook(module, args, out):
            seen[name] = seen.get(name, 0) + args[0].numel() // args[0].shape[-1]

        return hook

    hooks = [part.register_forward_hook(note(name)) for name, part in policy.lm.named_modules() if isinstance(part, nn.Linear)]
    work()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("value_grad", ["detach", "shared"])
@pytest.mark.parametrize("lora", [False, True])
def test_scores_and_gradients_are_those_of_the_whole_layer(tmp_path, monkeypatch, value_grad, lora):
    ours = lora_policy(tmp_path, value_grad=value_grad) if lora else tiny_models.policy(value_grad=value_grad, sharpness=3.0)
    whole = copy.deepcopy(ours)
    result, found = gradients(ours)
    monkeypatch.setattr(policy_module, "last_layer_at", lambda *_: nullcontext())
    expected, wanted = gradients(whole)
    for name in ("logp", "value", "entropy"):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert found.keys() == wanted.keys()
    assert any("layers.1.mlp" in name for name in found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_behind_the_attention_of_the_last_layer_only_what_is_read_is_computed():
    policy = Policy.from_config(LlamaConfig(**SHAPE), tiny_models.tokenizer())
    seen = tokens_of(policy, lambda: scored(policy))
    read, all_of_them = len(POS), 2 * int(POS.max())  # rows are cut behind the last position that is read
    for layer in (0, 1, 2):
        for name in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            assert seen[f"model.layers.{layer}.{name}"] == (read if layer == 2 else all_of_them), (layer, name)
        assert seen[f"model.layers.{layer}.self_attn.v_proj"] == all_of_them


def test_sizes_of_bf16_passes_recur_there_too():
    policy = Policy.from_config(LlamaConfig(**SHAPE), tiny_models.tokenizer())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = tokens_of(policy, lambda: scored(policy))
    assert seen["model.layers.2.mlp.down_proj"] == STRIDE
    assert torch.isfinite(scored(policy).logp).all()


def test_a_layer_that_runs_again_for_its_gradient_is_computed_whole():
    policy = tiny_models.policy(gradient_checkpointing=True)
    assert tokens_of(policy, lambda: scored(policy))["model.layers.1.mlp.down_proj"] == 2 * int(POS.max())


def test_models_that_are_put_together_otherwise_are_computed_whole():
    shape = {"vocab_size": 520, "n_embd": 32, "n_layer": 2, "n_head": 2}
    policy, seen = Policy.from_config(GPT2Config(**shape), tiny_models.tokenizer()), []
    layers = layers_of(policy.lm)
    assert len(layers) == 2
    layers[-1].mlp.act.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[:-1].numel()))
    scored(policy)
    assert seen == [2 * int(POS.max())]


def test_a_token_that_is_scored_twice_has_twice_its_gradient_and_no_more():
    """Not four times: two scores, each with the slope of both."""
    ids = torch.randint(0, 500, (2, 40), generator=torch.Generator().manual_seed(0))

    def slope(*times):
        policy = tiny_models.policy(sharpness=3.0)
        policy.score(ids, LENGTHS, ROWS[[*times]], POS[[*times]], torch.zeros(len(times)), temperature=1.0).logp.sum().backward()
        return policy.lm.model.layers[1].mlp.down_proj.weight.grad

    once = slope(1)
    assert once.abs().max() > 1e-4
    torch.testing.assert_close(slope(1, 1), 2 * once, rtol=1e-4, atol=1e-7)


def test_no_hook_stays_behind_even_an_error():
    policy = tiny_models.policy()
    with pytest.raises(RuntimeError, match="out of memory"), last_layer_at(policy.lm, ROWS, POS):
        raise RuntimeError("out of memory")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in policy.lm.modules())
