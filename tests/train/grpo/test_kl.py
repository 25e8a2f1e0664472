"""KL estimates and their gradients against exact sums over a small vocabulary."""

import pytest
import torch
from rollhouse.train.grpo.loss import LossInputs, StepTotals, kl_divergence, policy_loss

from .settings import loss_config


def distributions(seed=0, n=7):
    draw = torch.Generator().manual_seed(seed)
    logits, reference = torch.randn(2, n, generator=draw, dtype=torch.float64)
    return logits, reference.log_softmax(-1)


def exact(logits, reference):
    logprobs = logits.log_softmax(-1)
    return (logprobs.exp() * (logprobs - reference)).sum()


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_are_the_kl_in_expectation(kind):
    logits, reference = distributions()
    logprobs = logits.log_softmax(-1)
    mean = (logprobs.exp() * kl_divergence(reference - logprobs, kind)).sum()
    assert mean.item() == pytest.approx(exact(logits, reference).item(), rel=1e-12)


def gradient_in_expectation(kind, unbiased):
    """Of the KL term alone, with each token of the vocabulary sampled as often as its probability."""
    logits, reference = distributions()
    total = torch.zeros_like(logits)
    for token, probability in enumerate(logits.softmax(-1).tolist()):
        moving = logits.clone().requires_grad_()
        now = moving.log_softmax(-1)[token].reshape(1, 1)
        still = now.detach()
        mask, none = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.float64)
        inputs = LossInputs(now, still, still, mask, none, reference[token].reshape(1, 1))
        settings = loss_config(
            reference_policy_kl_penalty=1.0, reference_policy_kl_type=kind, use_bias_correction_kl=unbiased
        )
        loss = policy_loss(inputs, StepTotals(1, 1), settings).loss
        total += probability * torch.autograd.grad(loss, moving)[0]
    return total


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_unbiased_every_estimate_has_the_gradient_of_the_kl(kind):
    logits, reference = distributions()
    logits.requires_grad_()
    exact(logits, reference).backward()
    torch.testing.assert_close(gradient_in_expectation(kind, unbiased=True), logits.grad)


def test_bare_only_k2_has_it_k1_has_none_and_k3_that_of_the_other_direction():
    logits, reference = distributions()
    logits.requires_grad_()
    exact(logits, reference).backward()
    torch.testing.assert_close(gradient_in_expectation("k2", unbiased=False), logits.grad)
    assert gradient_in_expectation("k1", unbiased=False).abs().max() < 1e-12
    other = logits.detach().clone().requires_grad_()
    (reference.exp() * (reference - other.log_softmax(-1))).sum().backward()
    torch.testing.assert_close(gradient_in_expectation("k3", unbiased=False), other.grad)


def test_identical_models_have_none_and_far_ones_a_finite_one():
    same, far = torch.zeros(1, 1), torch.tensor([[1e4, -1e4]])
    for kind in ("k1", "k2", "k3"):
        assert kl_divergence(same, kind).item() == 0
        assert torch.isfinite(kl_divergence(far, kind)).all()
    assert (kl_divergence(far, "k3") >= 0).all()


def test_an_unknown_estimate_is_an_error():
    with pytest.raises(ValueError, match="k4"):
        kl_divergence(torch.zeros(1, 1), "k4")
