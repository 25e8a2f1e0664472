"""What an update is measured by, against plain sums over its sampled tokens."""

import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.update import TokenSums, outcomes
from rollhouse.train.grpo.loss import LossInputs, StepTotals, policy_loss

from .settings import loss_config

SETTINGS = loss_config(
    ratio_clip_max=0.28,
    ratio_clip_c=1.5,
    use_importance_sampling_correction=True,
    truncated_importance_sampling_type="icepop",
    truncated_importance_sampling_ratio_min=0.7,
    truncated_importance_sampling_ratio=1.4,
    reference_policy_kl_penalty=0.1,
)


def batch(seed=0, rows=6, width=9) -> LossInputs:
    draw = torch.Generator().manual_seed(seed)
    logprobs = -4 * torch.rand(rows, width, generator=draw)
    old, engine, reference = (logprobs + 0.4 * torch.randn(rows, width, generator=draw) for _ in range(3))
    mask = torch.rand(rows, width, generator=draw) < 0.6
    mask[1] = False
    advantages, entropies = torch.randn(rows, generator=draw), torch.rand(rows, width, generator=draw)
    return LossInputs(logprobs, old, engine, mask, advantages, reference, entropies)


def terms_of(inputs, settings=SETTINGS):
    return policy_loss(inputs, StepTotals(1, 1), settings).terms


def tally_of(*parts):
    tally = TokenSums()
    for inputs in parts:
        tally.add(inputs, terms_of(inputs))
    return tally


def tokens(inputs):
    """(logprob, old, engine, reference, advantage, entropy) of each sampled token."""
    for i, t in inputs.mask.nonzero().tolist():
        matrices = (inputs.logprobs, inputs.old_logprobs, inputs.engine_logprobs, inputs.reference_logprobs)
        yield *(matrix[i, t].item() for matrix in matrices), inputs.advantages[i].item(), inputs.entropies[i, t].item()


def test_metrics_equal_plain_means():
    inputs = batch()
    rows = list(tokens(inputs))
    ratios = [math.exp(now - old) for now, old, *_ in rows]
    gaps = [now - engine for now, _, engine, *_ in rows]
    weights = [math.exp(gap) for gap in gaps]
    corrections = [math.exp(old - engine) for _, old, engine, *_ in rows]
    advantages = [row[4] for row in rows]
    expected = {
        "train/ratio_mean": fmean(ratios),
        "train/ratio_min": min(ratios),
        "train/ratio_max": max(ratios),
        "train/clip_frac_low": fmean(r < 0.8 and a < 0 for r, a in zip(ratios, advantages, strict=True)),
        "train/clip_frac_high": fmean(r > 1.28 and a > 0 for r, a in zip(ratios, advantages, strict=True)),
        "train/clip_frac_dual": fmean(r > 1.5 and a < 0 for r, a in zip(ratios, advantages, strict=True)),
        "train/entropy": fmean(row[5] for row in rows),
        "train/kl_ref": fmean(math.exp(row[3] - row[0]) - 1 - (row[3] - row[0]) for row in rows),
        "train/kl_ref_k1": fmean(row[0] - row[3] for row in rows),
        "mismatch/masked_frac": fmean(not 0.7 <= w <= 1.4 for w in corrections),
        "mismatch/weight_mean": fmean(w if 0.7 <= w <= 1.4 else 0.0 for w in corrections),
        "mismatch/logp_abs_diff": fmean(map(abs, gaps)),
        "mismatch/kl": fmean(w - 1 - gap for w, gap in zip(weights, gaps, strict=True)),
        "mismatch/mult_prob_error": fmean(math.exp(abs(gap)) for gap in gaps),
        "mismatch/ess": sum(weights) ** 2 / (len(weights) * sum(w * w for w in weights)),
        "train/n_tokens": len(rows),
    }
    assert tally_of(inputs).metrics() == pytest.approx(expected, rel=1e-5)
    assert all(expected.values()), "a metric that is 0 here tests nothing"


def test_micro_batches_and_ranks_add_up():
    parts = [batch(seed) for seed in range(4)]
    whole, left, right = tally_of(*parts), tally_of(*parts[:1]), tally_of(*parts[1:])
    left.merge(right)
    left.merge(TokenSums())  # a rank that had nothing to do
    assert left.metrics() == pytest.approx(whole.metrics(), rel=1e-12)


def test_without_a_sampled_token_there_is_nothing_to_report():
    inputs = replace(batch(), mask=torch.zeros(6, 9, dtype=torch.bool))
    assert tally_of(inputs).metrics() == {}
    assert tally_of(batch(), inputs).metrics() == tally_of(batch()).metrics()


def test_what_is_not_loaded_is_not_reported():
    inputs, tally = replace(batch(), reference_logprobs=None, entropies=None), TokenSums()
    tally.add(inputs, terms_of(inputs, loss_config()))
    assert not {"train/kl_ref", "train/kl_ref_k1", "train/entropy", "train/clip_frac_dual"} & tally.metrics().keys()


def test_an_engine_that_is_far_off_gives_finite_numbers():
    inputs = replace(batch(), engine_logprobs=batch().engine_logprobs - 1e4)
    assert all(map(math.isfinite, tally_of(inputs).metrics().values()))


def test_outcomes_are_parallel_to_the_samples():
    inputs = batch()
    samples = [TrainSample(f"r{i}", [1], [2] * 9, mask, []) for i, mask in enumerate(inputs.mask.long().tolist())]
    terms = terms_of(inputs)
    found = outcomes(samples, inputs, terms)
    assert [outcome.rollout_id for outcome in found] == [f"r{i}" for i in range(6)]
    for row, outcome in enumerate(found):
        mask = inputs.mask[row]
        assert outcome.logprobs == inputs.logprobs[row, mask].tolist()
        if not mask.any():
            assert math.isnan(outcome.ratio_mean) and math.isnan(outcome.clipped_share or 0.0)
            continue
        weights = [
            math.exp(now - engine)
            for now, engine in zip(inputs.logprobs[row, mask], inputs.engine_logprobs[row, mask], strict=True)
        ]
        assert outcome.ratio_mean == pytest.approx(fmean(weights), rel=1e-5)
        clipped = (terms["clipped_low"] | terms["clipped_high"])[row, mask]
        assert outcome.clipped_share == pytest.approx(clipped.double().mean().item())


def test_a_rollout_that_failed_is_counted_and_is_no_wrong_answer(tmp_path):
    """As in training, where `train/pass_rate` is over the rollouts that did not fail."""
    from rollhouse.store.appending import append_rows
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.train.grpo.metrics import rollout_metrics
    from rollhouse.train.grpo.validation import validation_metrics

    store = LanceStore.create(tmp_path / "store")
    results = [("completed", True), ("truncated", False), ("error", False), ("timeout", None)]
    rows = [
        {"rollout_id": f"r{n}", "slot_id": f"s{n}", "run_id": "v", "task_id": f"t{n}", "attempt": 0, "status": status, "passed": passed}
        for n, (status, passed) in enumerate(results)
    ]  # fmt: skip
    append_rows(store, "rollouts", rows)
    numbers = validation_metrics(store, "v", {f"t{n}" for n in range(4)})
    assert numbers == {"val/accuracy": 0.5, "val/stderr": 0.5, "val/n": 2.0, "val/failed": 2.0}
    filled = [dict.fromkeys(("reward_components", "n_sampled_tokens", "n_tool_calls", "n_tool_errors", "n_turns", "n_parse_failures")) | row | {"reward": float(bool(row["passed"]))} for row in rows]  # fmt: skip
    trained = rollout_metrics(filled)
    assert (trained["train/pass_rate"], trained["rollouts/failed"]) == (0.5, 2.0)
    assert validation_metrics(store, "v", {"t2"})["val/accuracy"] == 0.0
