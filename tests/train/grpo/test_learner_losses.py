"""Every kind of loss through the learner: two updates on one batch, however the batch is split."""

from dataclasses import replace

import pytest
import torch
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import LearnerSettings, LossSettings

KINDS = {
    "dual clip": LossSettings(clip_high=0.28, dual_clip=1.5, correction="none"),
    "gspo": LossSettings(sequence_ratio=True, aggregation="sequence_mean", clip_low=0.01, clip_high=0.01),
    "cispo": LossSettings(objective="cispo", clip_low=1.0),
    "fixed length": LossSettings(aggregation="fixed_length", fixed_length=20),
    "icepop": LossSettings(correction="icepop", correction_min=0.1, correction_max=10.0),
    "seq-mask-tis": LossSettings(correction="seq-mask-tis", correction_min=0.5, correction_max=2.0),
    "kl and entropy": LossSettings(kl_coef=0.1, kl_type="k3", entropy_coef=0.01),
    "kl in reward": LossSettings(kl_coef=0.1, kl_type="k1", kl_in_reward=True),
}


@pytest.mark.parametrize("loss", KINDS.values(), ids=KINDS.keys())
def test_two_updates_do_not_depend_on_the_split(random_model, make_samples, loss):
    samples, found = make_samples(4, seed=2), []
    # Ratios that a second update at this learning rate moves; the engine's logprobs are made up, so w is far from 1.
    settings = LearnerSettings(lr=0.05, n_updates=2, max_grad_norm=1e9, loss=loss)
    for split in ([[0, 1, 2, 3]], [[2], [0, 3], [1]]):
        learner = Learner(str(random_model), settings)
        learner.optimizer = torch.optim.SGD(learner.model.parameters(), settings.lr)
        before = [parameter.detach().clone() for parameter in learner.model.parameters()]
        result = learner.step(samples, split)
        found.append((result, [p.detach() - b for p, b in zip(learner.model.parameters(), before, strict=True)]))
    (whole, moved), (parts, moved_too) = found
    assert whole.loss is not None and any(change.any() for change in moved)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-3, abs=1e-5)
    for one, other in zip(moved, moved_too, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    assert ("train/kl_ref" in whole.metrics) == (loss.kl_coef > 0)


def test_the_kl_term_pulls_the_policy_back(random_model, make_samples):
    """Away from the reference by some steps on made-up advantages; then on advantages of 0 the KL alone moves it."""
    samples, distances = make_samples(6, seed=3), {}
    away = [replace(sample, advantage=1.0) for sample in samples]
    still = [replace(sample, advantage=0.0) for sample in samples]
    for coefficient in (1e-9, 0.5):
        settings = LearnerSettings(lr=3e-3, loss=LossSettings(kl_coef=coefficient, correction="none"))
        learner = Learner(str(random_model), settings)
        for batch in [away] * 3 + [still] * 10:
            result = learner.step(batch, [list(range(6))])
        distances[coefficient] = result.metrics["train/kl_ref"]
    assert distances[0.5] < distances[1e-9] / 2
