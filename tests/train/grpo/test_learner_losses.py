"""Every kind of loss through the learner: two updates on one batch, however the batch is split."""

from dataclasses import replace

import pytest
import torch
from rollhouse.train.grpo.learner.learner import Learner

from .settings import learner_config, loss_config

KINDS = {
    "dual clip": loss_config(ratio_clip_max=0.28, ratio_clip_c=1.5, use_importance_sampling_correction=False),
    "gspo": loss_config(
        sequence_level_importance_ratios=True, token_level_loss=False, ratio_clip_min=0.01, ratio_clip_max=0.01
    ),
    "cispo": loss_config(objective="cispo", ratio_clip_min=1.0),
    "fixed length": loss_config(fixed_length=20),
    "icepop": loss_config(
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="icepop",
        truncated_importance_sampling_ratio_min=0.1,
        truncated_importance_sampling_ratio=10.0,
    ),
    "seq-mask-tis": loss_config(
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type="seq-mask-tis",
        truncated_importance_sampling_ratio_min=0.5,
        truncated_importance_sampling_ratio=2.0,
    ),
    "kl and entropy": loss_config(reference_policy_kl_penalty=0.1, reference_policy_kl_type="k3", entropy_bonus=0.01),
    "kl in reward": loss_config(reference_policy_kl_penalty=0.1, reference_policy_kl_type="k1", use_kl_in_reward=True),
}


@pytest.mark.parametrize("loss", KINDS.values(), ids=KINDS.keys())
def test_two_updates_do_not_depend_on_the_split(random_model, make_samples, loss):
    samples, found = make_samples(4, seed=2), []
    # Ratios that a second update at this learning rate moves; the engine's logprobs are made up, so w is far from 1.
    settings = learner_config(lr=0.05, num_updates_per_batch=2, max_grad_norm=1e9, loss_fn=loss)
    for split in ([[0, 1, 2, 3]], [[2], [0, 3], [1]]):
        learner = Learner(str(random_model), settings)
        learner.optimizer = torch.optim.SGD(learner.model.parameters(), settings.policy.optimizer.lr)
        before = [parameter.detach().clone() for parameter in learner.model.parameters()]
        result = learner.step(samples, split)
        found.append((result, [p.detach() - b for p, b in zip(learner.model.parameters(), before, strict=True)]))
    (whole, moved), (parts, moved_too) = found
    assert whole.loss is not None and any(change.any() for change in moved)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-3, abs=1e-5)
    for one, other in zip(moved, moved_too, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    assert ("train/kl_ref" in whole.metrics) == (loss.reference_policy_kl_penalty > 0)


def test_the_kl_term_pulls_the_policy_back(random_model, make_samples):
    """Away from the reference by some steps on made-up advantages; then on advantages of 0 the KL alone moves it."""
    samples, distances = make_samples(6, seed=3), {}
    away = [replace(sample, advantage=1.0) for sample in samples]
    still = [replace(sample, advantage=0.0) for sample in samples]
    for coefficient in (1e-9, 0.5):
        settings = learner_config(
            lr=3e-3,
            loss_fn=loss_config(reference_policy_kl_penalty=coefficient, use_importance_sampling_correction=False),
        )
        learner = Learner(str(random_model), settings)
        for batch in [away] * 3 + [still] * 10:
            result = learner.step(batch, [list(range(6))])
        distances[coefficient] = result.metrics["train/kl_ref"]
    assert distances[0.5] < distances[1e-9] / 2
