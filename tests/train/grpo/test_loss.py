"""Loss terms against a plain double loop and finite differences, and what they must not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.train.grpo.loss import (
    clipped_loss,
    clipped_tokens,
    sequence_mean,
    token_mean,
    truncated_importance_weights,
)

LOW, HIGH = 0.2, 0.28


def matrices(seed=0, rows=5, width=7, dtype=torch.float64):
    """Logprobs now, old, engine, mask [rows, width] and advantages [rows]; some rows end early, one is fully masked."""
    draw = torch.Generator().manual_seed(seed)
    logprobs = -4 * torch.rand(rows, width, generator=draw, dtype=dtype)
    old = logprobs + 0.5 * torch.randn(rows, width, generator=draw, dtype=dtype)
    engine = old + 0.5 * torch.randn(rows, width, generator=draw, dtype=dtype)
    mask = torch.rand(rows, width, generator=draw) < 0.6
    mask[0], mask[1] = True, False
    advantages = torch.randn(rows, generator=draw, dtype=dtype)
    return [torch.where(mask, matrix, 0.0) for matrix in (logprobs, old, engine)] + [mask, advantages]


def test_clipped_loss_equals_a_double_loop():
    logprobs, old, _, mask, advantages = matrices()
    expected, count = 0.0, 0
    for i, row in enumerate(mask.tolist()):
        for t, sampled in enumerate(row):
            if sampled:
                ratio, a = math.exp(logprobs[i, t] - old[i, t]), float(advantages[i])
                expected += max(-ratio * a, -min(max(ratio, 1 - LOW), 1 + HIGH) * a)
                count += 1
    loss = token_mean(clipped_loss(logprobs, old, advantages, LOW, HIGH), mask, count)
    assert float(loss) == pytest.approx(expected / count, rel=1e-12)


def test_sequence_mean_equals_a_double_loop_without_empty_sequences():
    loss, _, _, mask, _ = matrices()
    rows = [[float(v) for v, m in zip(r, k, strict=True) if m] for r, k in zip(loss, mask, strict=True)]
    means = [sum(row) / len(row) for row in rows if row]
    assert len(means) == 4
    assert float(sequence_mean(loss, mask, len(means))) == pytest.approx(sum(means) / 4, rel=1e-12)


def test_clipped_tokens_are_those_without_gradient():
    logprobs, old, _, _, advantages = matrices(seed=3, rows=20)
    logprobs.requires_grad_()
    clipped_loss(logprobs, old, advantages, LOW, HIGH).sum().backward()
    low, high = clipped_tokens(logprobs, old, advantages, LOW, HIGH)
    assert low.any() and high.any() and not (low & high).any()
    assert torch.equal(logprobs.grad == 0, low | high)


@pytest.mark.parametrize("reduce", ["token", "sequence"])
def test_gradient_equals_finite_differences(reduce):
    logprobs, old, engine, mask, advantages = matrices(seed=1)

    def loss(x):
        terms = clipped_loss(x, old, advantages, LOW, HIGH) * truncated_importance_weights(old, engine, 1.5)
        return token_mean(terms, mask, int(mask.sum())) if reduce == "token" else sequence_mean(terms, mask, 4)

    # None of the ratios lies within the step of a kink.
    assert torch.autograd.gradcheck(loss, [logprobs.requires_grad_()], eps=1e-6, atol=1e-7)


def test_importance_weights_are_capped_and_carry_no_gradient():
    old = torch.tensor([[0.0, -1.0, -1.0]], requires_grad=True)
    weights = truncated_importance_weights(old, torch.tensor([[0.0, -3.0, 0.0]]), cap=2.0)
    assert weights.tolist() == [[1.0, 2.0, pytest.approx(math.exp(-1))]]
    assert not weights.requires_grad


def test_first_update_loss_is_minus_the_mean_advantage():
    logprobs, _, _, _, advantages = matrices()
    mask = torch.ones_like(logprobs, dtype=torch.bool)
    loss = clipped_loss(logprobs, logprobs.clone(), advantages, LOW, HIGH)
    low, high = clipped_tokens(logprobs, logprobs.clone(), advantages, LOW, HIGH)
    assert not low.any() and not high.any()
    assert float(token_mean(loss, mask, mask.numel())) == pytest.approx(-float(advantages.mean()), rel=1e-12)


def test_nothing_sampled_is_loss_zero_with_finite_gradient():
    logprobs = torch.zeros(2, 3, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    terms = clipped_loss(logprobs, torch.zeros(2, 3), torch.ones(2), LOW, HIGH)
    for loss in (token_mean(terms, mask, 0), sequence_mean(terms, mask, 0)):
        (gradient,) = torch.autograd.grad(loss, logprobs, retain_graph=True)
        assert loss.item() == 0 and torch.isfinite(gradient).all()


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from(["token", "sequence"]))
def test_split_order_and_padding_do_not_change_the_loss(seed, size, reduce):
    logprobs, old, _, mask, advantages = matrices(seed)
    n_tokens, n_sequences = int(mask.sum()), int(mask.any(-1).sum())

    def loss(rows, before=0, after=0):
        def pad(matrix):
            return torch.nn.functional.pad(matrix[rows], (before, after))

        terms = clipped_loss(pad(logprobs), pad(old), advantages[rows], LOW, HIGH)
        if reduce == "token":
            return float(token_mean(terms, pad(mask), n_tokens))
        return float(sequence_mean(terms, pad(mask), n_sequences))

    rows = torch.arange(5)
    whole = loss(rows)
    shuffled = rows[torch.randperm(5, generator=torch.Generator().manual_seed(seed))]
    assert loss(shuffled) == pytest.approx(whole, abs=1e-12)
    assert loss(rows, before=3) == pytest.approx(whole, abs=1e-12)
    assert loss(rows, after=4) == pytest.approx(whole, abs=1e-12)
    assert sum(loss(part) for part in shuffled.split(size)) == pytest.approx(whole, abs=1e-12)
