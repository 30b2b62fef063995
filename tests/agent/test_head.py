"""Log-probabilities of tokens: values, gradients and what is kept for them, against plain autograd over all logits."""

from __future__ import annotations

import pytest
import torch

from rlpa_agent import head
from rlpa_agent.head import token_logprobs

TOKENS, HIDDEN, VOCABULARY, TAU = 11, 8, 40, 0.7


def case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype)
    banned = torch.zeros(VOCABULARY, dtype=torch.bool)
    banned[[3, 17]] = True
    ids = torch.arange(TOKENS) * 3 + 4  # none of them banned
    return hidden, weight, ids, banned, torch.randn(TOKENS, generator=generator)


def plain(hidden, weight, ids, banned):
    logp = torch.log_softmax((hidden.float() @ weight.float().T / TAU).masked_fill(banned, -torch.inf), -1)
    entropy = -(logp.exp() * logp.masked_fill(banned, 0.0)).sum(-1)
    return logp[torch.arange(TOKENS), ids], entropy


@pytest.mark.parametrize("chunk", [VOCABULARY * 4, VOCABULARY * TOKENS])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("entropy_grad", [False, True])
def test_values_and_gradients_are_those_of_all_logits(monkeypatch, chunk, trained, entropy_grad):
    monkeypatch.setattr(head, "CHUNK_LOGITS", chunk)
    hidden, weight, ids, banned, upstream = case()
    weight.requires_grad_(trained)
    wanted = [hidden, weight] if trained else [hidden]
    logp, entropy = token_logprobs(hidden, weight, ids, banned, TAU, entropy=True, entropy_grad=entropy_grad)
    exact, exact_entropy = plain(hidden, weight, ids, banned)
    torch.testing.assert_close(logp, exact)
    torch.testing.assert_close(entropy, exact_entropy)
    more = 0.3 if entropy_grad else 0.0
    assert entropy.requires_grad is entropy_grad
    found = torch.autograd.grad((logp * upstream).sum() + (more * entropy.sum() if more else 0.0), wanted)
    for gradient, right in zip(found, torch.autograd.grad((exact * upstream).sum() + more * exact_entropy.sum(), wanted), strict=True):
        assert right.abs().max() > 0.1
        torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_keeps_nothing_of_the_vocabulary_and_multiplies_twice(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_LOGITS", VOCABULARY * 4)
    hidden, weight, ids, banned, _ = case()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(lambda kept: sizes.append(kept.shape) or kept, lambda kept: kept):
        sizes: list[torch.Size] = []
        logp, _ = token_logprobs(hidden, weight, ids, banned, TAU, entropy=True, entropy_grad=False)
        logp.sum().backward()
    assert sizes == [(TOKENS, HIDDEN)]
    assert counter.get_total_flops() == 2 * 2 * TOKENS * HIDDEN * VOCABULARY


@pytest.mark.parametrize(("held", "autocast", "rounds"), [("bfloat16", True, True), ("bfloat16", False, False), ("float32", True, False)])
def test_logits_are_rounded_only_where_the_head_is_held_in_bf16_and_the_trunk_computes_in_it(held, autocast, rounds):
    hidden, weight, ids, banned, _ = case(torch.bfloat16)  # whatever it is held in, its numbers are those of bf16
    weight = weight.to(getattr(torch, held))
    exact, _ = plain(hidden, weight, ids, banned)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logp, _ = token_logprobs(hidden, weight, ids, banned, TAU)
    assert logp.dtype == torch.float32
    error = float((logp - exact).detach().abs().max())
    assert 1e-4 < error < 0.1 if rounds else error < 1e-5
    (slope,) = torch.autograd.grad(logp.sum(), hidden)
    (right,) = torch.autograd.grad(exact.sum(), hidden)
    assert float((slope - right).float().norm() / right.float().norm()) < 0.02


def test_rounded_logits_are_still_normalised_in_fp32():
    hidden, weight, _, banned, _ = case(torch.bfloat16)
    every = torch.tensor([i for i in range(VOCABULARY) if not banned[i]])
    with torch.autocast("cpu", torch.bfloat16):
        logp, _ = token_logprobs(hidden[:1].expand(len(every), -1), weight, every, banned, TAU)
    assert float(logp.detach().exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("certainty", [0.9, 0.98, 0.996, 0.9995])
def test_the_gradient_of_a_token_that_is_nearly_certain_survives_bf16(certainty):
    """(1 − p) W[id] − …: taken apart as W[id] − Σ p W, both rounded, nothing was left of it from p = .998 on."""
    _, weight, ids, banned, _ = case(torch.bfloat16)

    def sure_of(scale_A):
        """Hidden states along the token's own weights, and the probability of each token under rounded logits."""
        hidden = (scale_A[:, None] * torch.nn.functional.normalize(weight[ids].float())).to(torch.bfloat16)
        p = torch.softmax(((hidden @ weight.T).double() / TAU).masked_fill(banned, -torch.inf), -1)
        return hidden, p, p.gather(1, ids[:, None])[:, 0]

    low, high = torch.zeros(TOKENS), torch.full((TOKENS,), 100.0)
    for _ in range(30):
        middle = (low + high) / 2
        below = sure_of(middle)[2] < certainty
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    hidden, p, own = sure_of(high)
    sure = (own - certainty).abs() < 0.5 * (1 - certainty)  # the others are never the likeliest along their own weights
    assert int(sure.sum()) >= 8
    hidden.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logp, _ = token_logprobs(hidden, weight, ids, banned, TAU)
    (slope,) = torch.autograd.grad(logp.sum(), hidden)
    right = (torch.nn.functional.one_hot(ids, VOCABULARY).double() - p) @ weight.double() / TAU
    assert float(((slope.double() - right).norm(dim=1) / right.norm(dim=1))[sure].max()) < 0.02
