"""A learner that goes on from its state, several updates on a batch, and steps that go wrong."""

import math
from dataclasses import replace

import pytest
import torch
from rollhouse.base.errors import TrainingError
from rollhouse.train.grpo.learner.learner import Learner

from .settings import learner_config, loss_config

SETTINGS = learner_config(lr=1e-2, warmup_steps=3, scheduler="cosine", decay_steps=9)
SPLIT = [[0, 1], [2, 3]]


def weights(learner):
    return {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}


def assert_identical(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_learner_goes_on_from_its_state_bit_for_bit(random_model, make_samples, tmp_path):
    learner = Learner(str(random_model), SETTINGS)
    for seed in (1, 2):
        learner.step(make_samples(4, seed), SPLIT)
    learner.save_state(tmp_path / "state")
    results = [learner.step(make_samples(4, seed), SPLIT) for seed in (3, 4)]

    again = Learner(str(random_model), SETTINGS)
    again.step(make_samples(4, 9), SPLIT)  # moments of its own, which must go
    again.load_state(tmp_path / "state")
    assert again.steps == 2
    assert [again.step(make_samples(4, seed), SPLIT) for seed in (3, 4)] == results
    assert_identical(weights(learner), weights(again))


def test_a_state_before_the_first_step_and_one_that_is_not_there(random_model, make_samples, tmp_path):
    learner = Learner(str(random_model), SETTINGS)
    learner.save_state(tmp_path)
    again = Learner(str(random_model), SETTINGS)
    again.step(make_samples(4), SPLIT)
    again.load_state(tmp_path)
    assert again.steps == 0 and again.step(make_samples(4), SPLIT) == learner.step(make_samples(4), SPLIT)
    assert_identical(weights(learner), weights(again))
    with pytest.raises(TrainingError, match=r"nowhere does not hold a learner state"):
        learner.load_state(tmp_path / "nowhere")


def test_a_state_of_another_model_is_refused(random_model, tmp_path):
    from safetensors.torch import load_file, save_file

    learner = Learner(str(random_model), SETTINGS)
    learner.save_state(tmp_path)
    tensors = load_file(tmp_path / "learner.safetensors")
    tensors["weights.more"] = torch.zeros(1)
    save_file(tensors, tmp_path / "learner.safetensors")
    before = weights(learner)
    with pytest.raises(TrainingError, match="another model"):
        learner.load_state(tmp_path)
    assert_identical(before, weights(learner))


def test_several_updates_take_the_ratio_against_the_logprobs_before_the_first(random_model, make_samples):
    samples = make_samples(4)
    settings = learner_config(SETTINGS, warmup_steps=0, loss_fn=loss_config(use_importance_sampling_correction=False))
    once = Learner(str(random_model), settings).step(samples, SPLIT)
    learner = Learner(str(random_model), learner_config(settings, num_updates_per_batch=3))
    result = learner.step(samples, SPLIT)
    assert learner.steps == 1 and {int(state["step"]) for state in learner.optimizer.state.values()} == {3}
    assert result.outcomes == once.outcomes and result.loss == once.loss
    assert once.metrics["train/ratio_max"] == 1 and result.metrics["train/ratio_max"] > 1.01
    assert result.metrics["mismatch/kl"] == once.metrics["mismatch/kl"]
    assert result.metrics["train/n_tokens"] == once.metrics["train/n_tokens"]

    # By hand: the logprobs before are handed in as the engine's, each update is a step of its own against them.
    by_hand = Learner(str(random_model), learner_config(settings, loss_fn=loss_config(old_logprobs="engine")))
    before = [replace(s, engine_logprobs=o.logprobs) for s, o in zip(samples, once.outcomes, strict=True)]
    for _ in range(3):
        by_hand.steps = 0  # one learning rate for all updates of a batch
        by_hand.step(before, SPLIT)
    for name, tensor in weights(learner).items():
        torch.testing.assert_close(tensor, weights(by_hand)[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("bad", "value"), [("advantage", math.nan), ("advantage", -math.inf)])
def test_a_step_that_is_not_finite_is_skipped_when_told_to(random_model, make_samples, bad, value):
    learner = Learner(str(random_model), learner_config(SETTINGS, on_nonfinite="skip"))
    learner.step(make_samples(4, 1), SPLIT)
    before, moments = weights(learner), [state["exp_avg"].clone() for state in learner.optimizer.state.values()]
    samples = make_samples(4)
    samples[3] = replace(samples[3], **{bad: value})
    result = learner.step(samples, SPLIT)
    assert result.loss is None and result.outcomes == [] and result.skipped == ("rollout-2", "rollout-3")
    assert result.metrics["train/skipped"] == 1
    assert_identical(before, weights(learner))
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(moments, learner.optimizer.state.values(), strict=True))
    after = learner.step(make_samples(4), SPLIT)
    assert after.metrics["train/skipped"] == 0 and after.skipped == () and learner.steps == 3


def test_a_gradient_that_is_not_finite_names_the_whole_batch(random_model, make_samples):
    learner = Learner(str(random_model), SETTINGS)
    # The loss stays finite, its gradient does not: float32 ends at 3.4e38.
    samples = [replace(sample, advantage=3e37 * (-1) ** n) for n, sample in enumerate(make_samples(4))]
    before = weights(learner)
    with pytest.raises(TrainingError, match=r"gradient norm of step 1 is (inf|nan) .*rollout-0, rollout-1, rollout-2"):
        learner.step(samples, SPLIT)
    assert_identical(before, weights(learner))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_out_of_memory_names_the_settings_to_change(random_model, make_samples, device):
    learner = Learner(str(random_model), SETTINGS)

    def too_much(*_: object) -> None:
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …")
        torch.empty(2**60, dtype=torch.uint8)  # the allocator's own error

    learner.model.model.layers[1].register_forward_pre_hook(too_much)
    with pytest.raises(TrainingError, match=r"Memory ran out in step 1: .*allocate") as caught:
        learner.step(make_samples(4), SPLIT)
    for setting in ("policy.train_mb_tokens", "policy.logprob_chunk_tokens", "policy.activation_checkpointing"):
        assert setting in caught.value.fix
