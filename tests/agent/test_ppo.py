"""The losses: numbers by hand, gradients against enumeration, masked entries that cannot matter."""

from __future__ import annotations

import pytest
import torch

from rlpa_agent.ppo import approximate_kl, kl_estimate, kl_loss, policy_loss, value_loss

CLIP = {"clip_low": 0.2, "clip_high": 0.2}


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "loss", "slope"),
    [
        (1.5, 1.0, None, -1.2, 0.0),
        (0.5, -1.0, None, 0.8, 0.0),
        (1.5, -1.0, None, 1.5, 1.5),
        (0.5, 1.0, None, -0.5, -0.5),
        (5.0, -1.0, 3.0, 3.0, 0.0),
    ],
)
def test_T13_clipped_surrogate_and_its_gradient(ratio, advantage, dual, loss, slope):
    logp = torch.log(torch.tensor([ratio])).requires_grad_()
    out = policy_loss(logp, torch.zeros(1), torch.tensor([advantage]), dual_clip=dual, **CLIP)
    out.loss.backward()
    assert float(out.loss.detach()) == pytest.approx(loss, abs=1e-6)
    assert float(logp.grad) == pytest.approx(slope, abs=1e-6)
    assert int(out.clipped) == (slope == 0)
    with pytest.raises(ValueError, match="dual_clip"):
        policy_loss(logp, torch.zeros(1), torch.ones(1), dual_clip=1.0, **CLIP)


def test_T14_value_clip():
    value = torch.tensor([1.0], requires_grad=True)
    loss = value_loss(value, torch.tensor([2.0]), torch.tensor([0.0]), clip=0.2)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.62)
    assert float(value.grad) == 0
    assert float(value_loss(torch.tensor([1.0]), torch.tensor([2.0]))) == 0.5
    with pytest.raises(ValueError, match="old_values_A"):
        value_loss(value, value, clip=0.2)


def test_T15_masked_entries_change_nothing_not_even_nan():
    mask = torch.tensor([True, False, True])
    nan = float("nan")

    def losses(junk):
        logp = torch.tensor([0.1, junk, -0.2], requires_grad=True)
        old, ref = torch.tensor([0.0, junk, 0.0]), torch.tensor([0.3, junk, 0.1])
        value = torch.tensor([0.5, junk, 1.0], requires_grad=True)
        total = policy_loss(logp, old, torch.tensor([1.0, junk, -1.0]), mask_A=mask, dual_clip=3.0, **CLIP).loss
        total = total + value_loss(value, torch.tensor([1.0, junk, 1.0]), torch.tensor([0.4, junk, 0.9]), clip=0.2, mask_A=mask)
        total = total + kl_loss(logp, ref, old, "k2", mask_A=mask) + kl_loss(logp, ref, old, "k3", mask_A=mask)
        total.backward()
        return total.detach(), logp.grad, value.grad

    clean, broken = losses(7.0), losses(nan)
    for a, b in zip(clean, broken, strict=True):
        assert torch.equal(a, b)
    assert float(broken[1][1]) == float(broken[2][1]) == 0.0


def test_T12_kl_estimates_at_one_half():
    logp, ref = torch.tensor([0.0]), torch.tensor([-0.5])
    assert float(kl_estimate(logp, ref, "k1")) == 0.5
    assert float(kl_estimate(logp, ref, "k2")) == 0.125
    assert float(kl_estimate(logp, ref, "k3")) == pytest.approx(0.1065307, abs=1e-7)
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(logp, ref, "k4")


@pytest.mark.parametrize("kind", ["k2", "k3"])
@pytest.mark.parametrize("off_policy", [False, True])
def test_T12_both_loss_forms_have_the_gradient_of_the_kl(kind, off_policy):
    """Three symbols, every one weighted by its probability under the sampling policy: an exact expectation."""
    logits = torch.tensor([0.3, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([-0.2, 0.5, 0.1], dtype=torch.float64), -1)
    old = torch.log_softmax(torch.tensor([1.0, 0.2, -0.3], dtype=torch.float64), -1) if off_policy else None
    logp = torch.log_softmax(logits, -1)
    (exact,) = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)
    sampler = logp.detach() if old is None else old
    total = sum(
        sampler[i].exp() * kl_loss(logp[i : i + 1], ref[i : i + 1], sampler[i : i + 1], kind) for i in range(3)
    )
    (mine,) = torch.autograd.grad(total, logits)
    assert float((mine - exact).abs().max()) < 1e-8


def test_T12_k1_in_the_loss_is_refused():
    with pytest.raises(ValueError, match="k1"):
        kl_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), "k1")


def test_the_kl_that_stops_an_iteration_is_never_negative():
    new, old = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.zeros(50)
    assert float(approximate_kl(new, old)) > 0
    assert float(approximate_kl(old, old)) == 0
