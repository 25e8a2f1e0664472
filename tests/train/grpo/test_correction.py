"""Correction weights in numbers; test_loss.py has them against a double loop, test_trl_parity.py against TRL."""

import math

import pytest
import torch
from rollhouse.train.grpo.loss import LossInputs, StepTotals, correction_weights, policy_loss

from .settings import loss_config

# Two sequences: ratios 1, 4, 1/4 (geometric mean 1) and 2, 2 (geometric mean 2); the last position is a tool's.
LOG_WEIGHTS = torch.tensor([[0.0, math.log(4), -math.log(4)], [math.log(2), math.log(2), 9.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False]])


def weights(kind, low=0.5, high=2.5):
    found, out = correction_weights(LOG_WEIGHTS, torch.zeros_like(LOG_WEIGHTS), MASK, kind, low, high)
    return found[MASK].tolist(), out.tolist(), found[1, 2].item()


def test_tis_clips_and_takes_nothing_out():
    assert weights("tis") == (pytest.approx([1, 2.5, 0.5, 2, 2]), [[False] * 3] * 2, 1.0)
    assert weights("tis", low=0.0)[0] == pytest.approx([1, 2.5, 0.25, 2, 2])


def test_icepop_takes_out_tokens_out_of_bounds():
    values, out, _ = weights("icepop")
    assert values == pytest.approx([1, 0, 0, 2, 2])
    assert out == [[False, True, True], [False, False, False]]


def test_seq_mask_tis_takes_out_sequences_and_keeps_the_others_raw():
    values, out, _ = weights("seq-mask-tis", low=0.999, high=1.002)
    assert values == pytest.approx([1, 4, 0.25, 0, 0])
    assert out == [[False] * 3, [True, True, False]]


def test_the_geometric_mean_does_not_grow_with_length():
    for n in (1, 10, 4000):
        log_weights, mask = torch.full((1, n), 0.01), torch.ones(1, n, dtype=torch.bool)
        _, out = correction_weights(log_weights, torch.zeros(1, n), mask, "seq-mask-tis", 0.98, 1.02)
        assert not out.any()


@pytest.mark.parametrize("kind", ["icepop", "seq-mask-tis"])
def test_what_is_taken_out_stays_in_the_divisor_and_has_no_gradient(kind):
    old = LOG_WEIGHTS.clone().requires_grad_()
    inputs = LossInputs(old, LOG_WEIGHTS, torch.zeros_like(LOG_WEIGHTS), MASK, torch.ones(2, dtype=torch.float64))
    settings = loss_config(
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type=kind,
        truncated_importance_sampling_ratio_min=0.5,
        truncated_importance_sampling_ratio=1.5,
    )
    found = policy_loss(inputs, StepTotals(5, 2), settings)
    (gradient,) = torch.autograd.grad(found.loss, old)
    out = found.terms["masked"]
    assert out.any() and not gradient[out].any()
    kept = MASK & ~out
    torch.testing.assert_close(gradient[kept], -LOG_WEIGHTS[kept].exp() / 5)


def test_weights_carry_no_gradient():
    old = LOG_WEIGHTS.clone().requires_grad_()
    for kind in ("none", "tis", "icepop", "seq-mask-tis"):
        assert not correction_weights(old, torch.zeros_like(old), MASK, kind, 0.5, 2.0)[0].requires_grad


def test_an_unknown_correction_is_an_error():
    with pytest.raises(ValueError, match="opsm"):
        weights("opsm")
