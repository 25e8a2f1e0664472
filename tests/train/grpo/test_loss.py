"""The policy loss against a plain double loop, its gradient against finite differences of that loop, and what neither may depend on."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.train.grpo.loss import LossInputs, StepTotals, policy_loss

from .settings import loss_config

PLAIN = loss_config(use_importance_sampling_correction=False, ratio_clip_max=0.28)
CASES = {
    "clip": PLAIN,
    "dual clip": loss_config(PLAIN, ratio_clip_c=1.5),
    "cispo": loss_config(PLAIN, objective="cispo"),
    "gspo": loss_config(
        PLAIN, sequence_level_importance_ratios=True, token_level_loss=False, ratio_clip_min=0.05, ratio_clip_max=0.06
    ),
    "gspo by tokens": loss_config(
        PLAIN, sequence_level_importance_ratios=True, ratio_clip_min=0.05, ratio_clip_max=0.06
    ),
    "cispo of sequences": loss_config(PLAIN, objective="cispo", sequence_level_importance_ratios=True),
    "sequence mean": loss_config(PLAIN, token_level_loss=False),
    "fixed length": loss_config(PLAIN, fixed_length=11),
    "tis": loss_config(
        PLAIN,
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="tis",
        truncated_importance_sampling_ratio=1.3,
    ),
    "tis with a lower bound": loss_config(
        PLAIN,
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="tis",
        truncated_importance_sampling_ratio_min=0.7,
        truncated_importance_sampling_ratio=1.3,
    ),
    "icepop": loss_config(
        PLAIN,
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="icepop",
        truncated_importance_sampling_ratio_min=0.7,
        truncated_importance_sampling_ratio=1.4,
    ),
    "seq-mask-tis": loss_config(
        PLAIN,
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="seq-mask-tis",
        truncated_importance_sampling_ratio_min=0.9,
        truncated_importance_sampling_ratio=1.2,
    ),
    "engine's ratio": loss_config(
        PLAIN,
        old_logprobs="engine",
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="tis",
        truncated_importance_sampling_ratio=1.3,
    ),
    "k1": loss_config(PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k1"),
    "k2": loss_config(PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k2"),
    "k3": loss_config(PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k3"),
    "k1, bare": loss_config(
        PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k1", use_bias_correction_kl=False
    ),
    "k2, bare": loss_config(
        PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k2", use_bias_correction_kl=False
    ),
    "k3, bare": loss_config(
        PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k3", use_bias_correction_kl=False
    ),
    "k3 with a sequence's ratio": loss_config(
        PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k3", sequence_level_importance_ratios=True
    ),
    "kl in reward": loss_config(
        PLAIN, reference_policy_kl_penalty=0.3, reference_policy_kl_type="k1", use_kl_in_reward=True
    ),
    "entropy": loss_config(PLAIN, entropy_bonus=0.2, token_level_loss=False),
    "all at once": loss_config(
        ratio_clip_min=0.1,
        ratio_clip_c=1.5,
        sequence_level_importance_ratios=True,
        token_level_loss=False,
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="icepop",
        truncated_importance_sampling_ratio_min=0.7,
        truncated_importance_sampling_ratio=1.4,
        reference_policy_kl_penalty=0.3,
        entropy_bonus=0.2,
    ),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def batch(seed=0, rows=6, width=7, dtype=torch.float64) -> Any:
    """Rows that begin late, end early or have gaps (tools' results); row 0 is full, row 1 has no sampled token."""
    draw = torch.Generator().manual_seed(seed)

    def noise(scale):
        return scale * torch.randn(rows, width, generator=draw, dtype=torch.float64)

    logprobs = -4 * torch.rand(rows, width, generator=draw, dtype=torch.float64)
    old = logprobs + noise(0.4)
    engine, reference = old + noise(0.4), logprobs + noise(0.5)
    mask = torch.rand(rows, width, generator=draw) < 0.6
    mask[0], mask[1] = True, False
    advantages = torch.randn(rows, generator=draw, dtype=torch.float64)
    found = [m.to(dtype) for m in (logprobs, old, engine, advantages, reference, noise(1).abs())]
    return LossInputs(found[0], found[1], found[2], mask, *found[3:])


def totals_of(inputs):
    return StepTotals(int(inputs.mask.sum()), int(inputs.mask.any(-1).sum()))


def gradient(of) -> torch.Tensor:
    """What backward left, 0 where nothing flowed."""
    return torch.zeros_like(of) if of.grad is None else of.grad


def value(inputs, case, totals=None):
    return policy_loss(inputs, totals or totals_of(inputs), case).loss


def clip(value, low, high):
    return min(max(value, low), high)


def double_loop(inputs, s, logprobs=None):
    """The loss of a whole step in plain Python. `logprobs` replaces inputs.logprobs but where formulas stop the gradient."""
    fixed = inputs.logprobs.tolist()
    now = fixed if logprobs is None else logprobs
    old, engine, reference, entropies = (
        m.tolist() for m in (inputs.old_logprobs, inputs.engine_logprobs, inputs.reference_logprobs, inputs.entropies)
    )
    sums, counts, entropy = [], [], 0.0
    for i, (row, a) in enumerate(zip(inputs.mask.tolist(), inputs.advantages.tolist(), strict=True)):
        at = [t for t, sampled in enumerate(row) if sampled]
        if not at:
            continue
        total, n = 0.0, len(at)
        for t in at:
            if s.sequence_level_importance_ratios:
                fixed_ratio = math.exp(sum(fixed[i][u] - old[i][u] for u in at) / n)
                ratio = fixed_ratio * math.exp(now[i][t] - fixed[i][t])
            else:
                ratio, fixed_ratio = math.exp(now[i][t] - old[i][t]), math.exp(fixed[i][t] - old[i][t])
            low, high = 1 - s.ratio_clip_min, 1 + s.ratio_clip_max
            if s.objective == "cispo":
                loss = -clip(fixed_ratio, low, high) * a * now[i][t]
            else:
                loss = max(-ratio * a, -clip(ratio, low, high) * a)
                if s.ratio_clip_c is not None and a < 0:
                    loss = min(loss, -s.ratio_clip_c * a)

            weight = math.exp(old[i][t] - engine[i][t])
            mean_weight = math.exp(sum(old[i][u] - engine[i][u] for u in at) / n)
            if not s.use_importance_sampling_correction or s.old_logprobs == "engine":
                weight = 1.0
            elif s.truncated_importance_sampling_type == "tis":
                weight = clip(weight, s.truncated_importance_sampling_ratio_min, s.truncated_importance_sampling_ratio)
            else:
                judged = weight if s.truncated_importance_sampling_type == "icepop" else mean_weight
                weight = (
                    weight
                    if s.truncated_importance_sampling_ratio_min <= judged <= s.truncated_importance_sampling_ratio
                    else 0.0
                )
            loss *= weight

            d = reference[i][t] - now[i][t]
            kl = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - 1 - d}[s.reference_policy_kl_type]
            if s.use_bias_correction_kl:
                kl *= math.exp((fixed if s.reference_policy_kl_type == "k2" else now)[i][t] - old[i][t])
            total += loss + (0.0 if s.use_kl_in_reward else s.reference_policy_kl_penalty * kl)
            entropy += entropies[i][t]
        sums.append(total)
        counts.append(n)
    if s.fixed_length is not None:
        mean = sum(sums) / (len(sums) * s.fixed_length)
    elif s.token_level_loss:
        mean = sum(sums) / sum(counts)
    else:
        mean = sum(total / n for total, n in zip(sums, counts, strict=True)) / len(sums)
    return mean - s.entropy_bonus * entropy / sum(counts)


@ALL
def test_equals_a_double_loop(case):
    for seed in range(5):
        expected = double_loop(batch(seed), case)
        assert value(batch(seed), case).item() == pytest.approx(expected, rel=1e-12)
        assert value(batch(seed, dtype=torch.float32), case).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@ALL
def test_gradient_equals_finite_differences_of_the_double_loop(case):
    inputs, step = batch(seed=1, rows=5, width=5), 1e-6
    logprobs, entropies = inputs.logprobs.clone().requires_grad_(), inputs.entropies.clone().requires_grad_()
    value(replace(inputs, logprobs=logprobs, entropies=entropies), case).backward()
    for i in range(5):
        for t in range(5):
            sides = []
            for sign in (1, -1):
                moved = inputs.logprobs.tolist()
                moved[i][t] += sign * step
                sides.append(double_loop(inputs, case, moved))
            # None of the ratios lies within the step of a kink.
            assert gradient(logprobs)[i, t].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-8)
    torch.testing.assert_close(
        gradient(entropies), -case.entropy_bonus * inputs.mask.double() / inputs.mask.sum(), check_dtype=False
    )


@ALL
def test_no_case_is_like_plain_clipping_but_those_that_should_be(case):
    same = case in (PLAIN, CASES["engine's ratio"], CASES["kl in reward"])
    assert (value(batch(), case).item() == pytest.approx(value(batch(), PLAIN).item(), rel=1e-9)) == same


def rows_of(inputs, rows, before=0, after=0, filled=0.0):
    """Some rows of a batch, in that order, with more padding on either side."""

    def pad(matrix):
        return torch.nn.functional.pad(
            matrix[rows], (before, after), value=False if matrix.dtype == torch.bool else filled
        )

    matrices = {
        name: pad(getattr(inputs, name))
        for name in ("logprobs", "old_logprobs", "engine_logprobs", "mask", "reference_logprobs", "entropies")
    }
    return LossInputs(**matrices, advantages=inputs.advantages[rows])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from(list(CASES)),
    st.integers(0, 4),
    st.integers(0, 4),
    st.floats(allow_nan=True),
)
def test_edge_7_neither_padding_nor_what_is_in_it_changes_loss_or_gradient(seed, name, before, after, filled):
    inputs, found = batch(seed), []
    for padded in (inputs, rows_of(inputs, torch.arange(6), before, after, filled)):
        logprobs = padded.logprobs.clone().requires_grad_()
        loss = value(replace(padded, logprobs=logprobs), CASES[name])
        loss.backward()
        found.append((loss.item(), gradient(logprobs)[padded.mask].tolist(), gradient(logprobs)[~padded.mask]))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-12)
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-12)
    assert not found[1][2].any(), "padding has a gradient"


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(list(CASES)), st.integers(1, 3), st.integers(1, 6))
def test_edge_12_neither_order_nor_micro_batches_nor_ranks_change_loss_or_gradient(seed, name, ranks, size):
    inputs, totals = batch(seed), totals_of(batch(seed))
    logprobs = inputs.logprobs.clone().requires_grad_()
    whole = value(replace(inputs, logprobs=logprobs), CASES[name])
    whole.backward()

    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    loss, summed = 0.0, torch.zeros_like(inputs.logprobs)
    for rank in range(ranks):
        mine = inputs.logprobs.clone().requires_grad_()
        for rows in order[rank::ranks].split(size):
            part = value(rows_of(replace(inputs, logprobs=mine), rows), CASES[name], totals)
            part.backward()
            loss += part.item()
        summed += gradient(mine)
    assert loss == pytest.approx(whole.item(), abs=1e-12)
    torch.testing.assert_close(summed, gradient(logprobs), atol=1e-12, rtol=1e-9)


# Edge cases, numbered as in docs/grpo-algorithms.md.


@ALL
def test_edge_3_nothing_sampled_is_loss_zero_with_finite_gradient(case):
    inputs = replace(batch(), mask=torch.zeros(6, 7, dtype=torch.bool))
    logprobs = inputs.logprobs.clone().requires_grad_()
    loss = value(replace(inputs, logprobs=logprobs), case)
    loss.backward()
    assert loss.item() == 0 and not gradient(logprobs).any()


@ALL
def test_edge_3_a_row_without_a_sampled_token_changes_nothing(case):
    inputs = batch()
    without = rows_of(inputs, torch.tensor([0, 2, 3, 4, 5]))
    assert value(inputs, case).item() == pytest.approx(value(without, case).item(), rel=1e-12)


def test_edge_5_tool_results_have_no_part_in_loss_or_gradient():
    inputs = batch()
    changed = replace(inputs, logprobs=torch.where(inputs.mask, inputs.logprobs, -99.0))
    for case in CASES.values():
        assert value(changed, case).item() == value(inputs, case).item()


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_edge_8_advantage_zero_with_kl_still_has_a_gradient(kind):
    inputs = batch()
    logprobs = inputs.logprobs.clone().requires_grad_()
    still = replace(inputs, logprobs=logprobs, advantages=torch.zeros(6, dtype=torch.float64))
    value(still, CASES[f"{kind}, bare"]).backward()
    assert (gradient(logprobs) != 0).equal(inputs.mask)
    # Both are smallest at the reference: a step against the gradient goes towards it.
    assert (torch.sign(gradient(logprobs)) == torch.sign(inputs.logprobs - inputs.reference_logprobs))[
        inputs.mask
    ].all()


def test_edge_10_first_update_has_ratio_one_and_loss_minus_the_mean_advantage():
    inputs = batch()
    first = replace(
        inputs, old_logprobs=inputs.logprobs, engine_logprobs=inputs.logprobs, mask=torch.ones(6, 7, dtype=torch.bool)
    )
    for name in ("clip", "dual clip", "gspo", "gspo by tokens", "sequence mean", "tis", "icepop", "seq-mask-tis"):
        found = policy_loss(first, totals_of(first), CASES[name])
        assert found.loss.item() == pytest.approx(-inputs.advantages.mean().item(), rel=1e-12)
        assert (found.terms["ratio"] == 1).all() and (found.terms["weight"] == 1).all()
        assert not any(found.terms[term].any() for term in found.terms if term.startswith(("clipped", "masked")))


def test_at_the_first_update_all_objectives_have_the_plain_policy_gradient():
    inputs = replace(batch(), old_logprobs=batch().logprobs)
    expected = torch.where(inputs.mask, -inputs.advantages.unsqueeze(-1) / inputs.mask.sum(), 0.0)
    for name in ("clip", "dual clip", "cispo"):
        logprobs = inputs.logprobs.clone().requires_grad_()
        value(replace(inputs, logprobs=logprobs), CASES[name]).backward()
        torch.testing.assert_close(gradient(logprobs), expected)


def test_clipped_tokens_are_those_without_gradient_and_cispo_has_none():
    inputs = batch(seed=3, rows=30)
    for name, acted in (("clip", ("low", "high")), ("dual clip", ("low", "high", "dual")), ("cispo", ())):
        logprobs = inputs.logprobs.clone().requires_grad_()
        found = policy_loss(replace(inputs, logprobs=logprobs), totals_of(inputs), CASES[name])
        found.loss.backward()
        out = ~inputs.mask
        for bound in acted:
            assert (found.terms[f"clipped_{bound}"] & inputs.mask).any()
            out = out | found.terms[f"clipped_{bound}"]
        assert torch.equal(gradient(logprobs) == 0, out)
        assert found.terms["clipped_low"].any() and found.terms["clipped_high"].any()


@pytest.mark.parametrize("gap", [1e4, -1e4, 90.0, -90.0])
@ALL
def test_logprobs_that_are_far_apart_stay_finite_in_float32(case, gap):
    inputs = batch(dtype=torch.float32)
    for changed in ("old_logprobs", "engine_logprobs", "reference_logprobs"):
        logprobs = inputs.logprobs.clone().requires_grad_()
        far = replace(inputs, logprobs=logprobs, **{changed: getattr(inputs, changed) + gap})
        loss = value(far, case)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(gradient(logprobs)).all()


def test_a_weight_of_the_entropy_without_entropies_is_an_error():
    with pytest.raises(ValueError, match="entropies"):
        value(replace(batch(), entropies=None), CASES["entropy"])
    with pytest.raises(ValueError, match="reference"):
        value(replace(batch(), reference_logprobs=None), CASES["k3"])


@pytest.mark.parametrize("by", [{"token_level_loss": True}, {"token_level_loss": False}, {"fixed_length": 16}])
def test_an_episode_weighs_the_same_in_one_row_and_in_several(by):
    case = loss_config(**by)
    whole, first = batch(seed=2), torch.tensor([True] * 3 + [False] * 4)
    rows = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    shares = torch.ones(7, dtype=torch.float64)
    split = replace(rows_of(whole, rows), shares=shares)
    split.mask[0] &= first
    split.mask[1] &= ~first
    shares[:2] = split.mask[:2].sum(-1).double() / split.mask[:2].sum()
    inside = policy_loss(split, totals_of(whole), case).loss
    assert inside.item() == pytest.approx(policy_loss(whole, totals_of(whole), case).loss.item(), rel=1e-12)
