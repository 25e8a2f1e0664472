"""The learner: what a step does, what it must not depend on, and when it refuses."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rollhouse.base.errors import TrainingError
from rollhouse.train.grpo.learner.learner import Learner

from .settings import learner_config, loss_config

SETTINGS = learner_config(lr=1e-2)


def weights(learner):
    return {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}


def assert_same_weights(left, right, **tolerance):
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], **tolerance)


def on_policy(learner, samples):
    """The samples with the learner's own logprobs in place of an engine's."""
    scored = learner.logprobs([(sample.prompt_ids, sample.token_ids) for sample in samples])
    return [
        replace(sample, engine_logprobs=[value for value, kept in zip(values, sample.loss_mask, strict=True) if kept])
        for sample, values in zip(samples, scored, strict=True)
    ]


@pytest.mark.parametrize(
    "settings", [SETTINGS, learner_config(SETTINGS, loss_fn=loss_config(token_level_loss=False, old_logprobs="engine"))]
)
def test_neither_split_nor_order_changes_the_step(random_model, make_samples, settings):
    samples = make_samples(6)
    results, after = [], []
    for order, split in (
        ([0, 1, 2, 3, 4, 5], [[0, 1, 2, 3, 4, 5]]),
        ([0, 1, 2, 3, 4, 5], [[3], [0, 5], [1, 2, 4]]),
        ([5, 3, 1, 0, 2, 4], [[0, 1], [2, 3], [4, 5]]),
    ):
        # SGD shows the gradient itself; Adam would blow up rounding where a gradient is nearly 0.
        learner = Learner(str(random_model), settings)
        learner.optimizer = torch.optim.SGD(learner.model.parameters(), settings.policy.optimizer.lr)
        results.append(learner.step([samples[i] for i in order], split))
        after.append(weights(learner))
    assert after[0].keys() == after[1].keys()
    for result, changed in zip(results[1:], after[1:], strict=True):
        assert_same_weights(after[0], changed, atol=1e-6, rtol=1e-5)
        assert result.metrics == pytest.approx(results[0].metrics, rel=1e-4, abs=1e-6)
    assert [outcome.rollout_id for outcome in results[2].outcomes] == [f"rollout-{i}" for i in (5, 3, 1, 0, 2, 4)]
    by_id = {outcome.rollout_id: outcome for outcome in results[2].outcomes}
    for outcome in results[0].outcomes:
        assert outcome.logprobs == pytest.approx(by_id[outcome.rollout_id].logprobs, abs=1e-5)


def test_a_step_moves_probability_towards_what_did_well(random_model, make_samples):
    learner = Learner(str(random_model), SETTINGS)
    good, bad = (replace(sample, advantage=sign) for sample, sign in zip(make_samples(2), (1.0, -1.0), strict=True))
    samples = on_policy(learner, [good, bad])

    def total(sample):
        return sum(learner.logprobs([(sample.prompt_ids, sample.token_ids)])[0])

    before = [total(sample) for sample in samples]
    result = learner.step(samples, [[0, 1]])
    assert total(good) > before[0] and total(bad) < before[1]
    assert result.metrics["train/ratio_mean"] == 1 and result.metrics["train/clip_frac_low"] == 0
    assert result.metrics["mismatch/logp_abs_diff"] == pytest.approx(0, abs=1e-5)
    assert result.metrics["mismatch/ess"] == pytest.approx(1, abs=1e-4)
    assert result.outcomes[0].ratio_mean == pytest.approx(1, abs=1e-4)
    assert result.metrics["train/n_tokens"] == sum(sample.n_sampled for sample in samples)


def test_outcomes_are_the_logprobs_before_the_update(random_model, make_samples):
    learner = Learner(str(random_model), SETTINGS)
    samples = on_policy(learner, make_samples(4))
    result = learner.step(samples, [[0, 1], [2, 3]])
    for sample, outcome in zip(samples, result.outcomes, strict=True):
        assert outcome.logprobs == pytest.approx(sample.engine_logprobs, abs=1e-5)


def test_an_off_policy_batch_is_clipped_or_weighted(random_model, make_samples):
    samples = make_samples(6)
    clipped = Learner(str(random_model), learner_config(SETTINGS, loss_fn=loss_config(old_logprobs="engine"))).step(
        samples, [list(range(6))]
    )
    weighted = Learner(str(random_model), SETTINGS).step(samples, [list(range(6))])
    plain = Learner(
        str(random_model), learner_config(SETTINGS, loss_fn=loss_config(use_importance_sampling_correction=False))
    ).step(samples, [list(range(6))])
    assert clipped.metrics["train/clip_frac_low"] + clipped.metrics["train/clip_frac_high"] > 0.1
    assert any((outcome.clipped_share or 0) > 0 for outcome in clipped.outcomes)
    assert clipped.metrics["train/ratio_max"] > 1.2
    assert weighted.loss != pytest.approx(plain.loss)


def test_samples_without_a_sampled_token_train_nothing(random_model, make_samples):
    learner = Learner(str(random_model), SETTINGS)
    before = weights(learner)
    tools_only = replace(make_samples(1)[0], loss_mask=[0] * len(make_samples(1)[0].token_ids), engine_logprobs=[])
    for samples, split in (([], []), ([tools_only], [[0]])):
        result = learner.step(samples, split)
        assert result.loss is None and result.outcomes == []
    assert_same_weights(before, weights(learner), atol=0, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_loss_that_is_not_finite_names_the_batch_and_changes_nothing(random_model, make_samples, bad):
    learner = Learner(str(random_model), SETTINGS)
    before = weights(learner)
    samples = make_samples(3)
    samples[1] = replace(samples[1], advantage=bad)
    with pytest.raises(TrainingError, match=r"step 1 is .*rollout-1"):
        learner.step(samples, [[0, 2], [1]])
    assert_same_weights(before, weights(learner), atol=0, rtol=0)


def test_saved_weights_are_complete_and_tied_ones_are_there_once(random_model, make_samples, tmp_path):
    from safetensors.torch import load_file

    learner = Learner(str(random_model), SETTINGS)
    learner.step(make_samples(3), [[0, 1, 2]])
    learner.save_weights(str(tmp_path / "w.safetensors"))
    saved = load_file(tmp_path / "w.safetensors")
    assert "lm_head.weight" not in saved and "model.embed_tokens.weight" in saved
    assert_same_weights(weights(learner), saved, atol=0, rtol=0)
    learner.save_pretrained(str(tmp_path / "model"))
    assert_same_weights(weights(learner), weights(Learner(str(tmp_path / "model"), SETTINGS)), atol=0, rtol=0)


@pytest.mark.system
def test_learner_and_torch_engine_run_without_ray_lance_or_vllm(fresh_model):
    program = f"""
import asyncio, sys
blocked = ("ray", "lance", "lancedb", "vllm", "duckdb", "pyarrow", "polars")
for name in blocked:
    sys.modules[name] = None
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import LearnerSettings
from rollhouse.train.grpo.config_policy import PolicyConfig
assert "peft" not in sys.modules
learner = Learner({str(fresh_model)!r}, LearnerSettings(PolicyConfig(model_name="unused")))
print(learner.step([TrainSample("a", [1, 2], [3, 4], [1, 1], [-1.0, -1.0], 1.0)], [[0]]).loss is not None)

from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.types import Sampling
engine = TorchEngine({str(fresh_model)!r}, stop_ids=[1])
print(len(asyncio.run(engine.generate([5, 6, 7], Sampling(max_tokens=3, seed=0))).token_ids) > 0)
print([name for name in blocked if sys.modules[name] is not None])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "True", "[]"], done.stderr


@pytest.mark.parametrize("n_updates", [1, 3])
def test_no_weight_changes_before_the_caller_agrees(random_model, make_samples, n_updates):
    learner = Learner(str(random_model), learner_config(SETTINGS, num_updates_per_batch=n_updates))
    first, unchanged = weights(learner), []

    def agree():
        unchanged.append(all(torch.equal(first[name], now) for name, now in weights(learner).items()))

    def refuse():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        learner.step(make_samples(4), [[0, 1], [2, 3]], refuse)
    learner.step(make_samples(4), [[0, 1], [2, 3]], agree)
    assert unchanged == [True]
    learner.step([], [], agree)
    assert unchanged == [True, False], "a batch with nothing to train on is confirmed too"
