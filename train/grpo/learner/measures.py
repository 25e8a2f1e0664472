"""What one optimizer update is measured by: sums over its sampled tokens, and what became of each sample."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..algorithm.loss import MAX_LOG_RATIO, LossInputs
from .batch import Sample

TERMS = {
    "ratio": "train/ratio_mean",
    "clipped_low": "train/clip_frac_low",
    "clipped_high": "train/clip_frac_high",
    "clipped_dual": "train/clip_frac_dual",
    "masked": "mismatch/masked_frac",
    "weight": "mismatch/weight_mean",
    "kl_k1": "train/kl_ref_k1",
    "kl_k3": "train/kl_ref",
}
"""The metric that is the mean over sampled tokens of each of PolicyLoss.terms."""


@dataclass(frozen=True)
class Outcome:
    """What became of one sample in a step.

    Attributes:
        logprobs: One per sampled token, in order: the learner's before the update.
        ratio_mean: Mean of exp(learner - engine) over its sampled tokens; NaN without any.
        clipped_share: Share of its sampled tokens that the clip took out; NaN without any.
    """

    rollout_id: str
    logprobs: list[float]
    ratio_mean: float
    clipped_share: float


@dataclass
class Tally:
    """Sums over the sampled tokens of an update, micro-batch by micro-batch; those of several ranks add up.

    Attributes:
        sums: By metric name.
        ratios: Smallest and largest PPO ratio so far.
    """

    n_tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    ratios: tuple[float, float] = (math.inf, -math.inf)

    def add(self, inputs: LossInputs, terms: Mapping[str, Tensor]) -> None:
        """Adds a micro-batch: what the loss was computed from, and PolicyLoss.terms. `mismatch/…` compares inputs.logprobs with the engine's."""
        mask = inputs.mask
        gap = (inputs.logprobs.detach() - inputs.engine)[mask].double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        weight = gap.exp()
        found = {
            "mismatch/logp_abs_diff": gap.abs(),
            "mismatch/kl": weight - 1 - gap,
            "mismatch/mult_prob_error": gap.abs().exp(),
            "weight": weight,
            "weight_squared": weight**2,
        } | {TERMS[name]: values[mask] for name, values in terms.items()}
        if inputs.entropies is not None:
            found["train/entropy"] = inputs.entropies.detach()[mask]
        if gap.numel():
            ratio = terms["ratio"][mask].double()
            # One transfer for all of them: on a GPU each would wait for it.
            sums = [values.double().sum() for values in found.values()]
            *totals, smallest, largest = torch.stack([*sums, ratio.min(), ratio.max()]).tolist()
            self.merge(Tally(gap.numel(), dict(zip(found, totals, strict=True)), (smallest, largest)))

    def merge(self, other: "Tally") -> None:
        """Adds what was counted elsewhere of the same update."""
        self.n_tokens += other.n_tokens
        for name, total in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.ratios = (min(self.ratios[0], other.ratios[0]), max(self.ratios[1], other.ratios[1]))

    def metrics(self) -> dict[str, float]:
        """Means over tokens; `mismatch/ess` is the effective share of the sample, (sum w)^2 / (n * sum w^2). Empty without a token."""
        if not self.n_tokens:
            return {}
        means = {name: total / self.n_tokens for name, total in self.sums.items()}
        weight, squared = means.pop("weight"), means.pop("weight_squared")
        smallest, largest = self.ratios
        return means | {
            "mismatch/ess": weight**2 / squared,
            "train/ratio_min": smallest,
            "train/ratio_max": largest,
            "train/n_tokens": float(self.n_tokens),
        }


def outcomes(samples: Sequence[Sample], inputs: LossInputs, terms: Mapping[str, Tensor]) -> list[Outcome]:
    """One a sample, in order; the samples are parallel to the rows of the matrices. Taken at the first update, when logprobs are those before it."""
    mask, logprobs = inputs.mask, inputs.logprobs.detach()
    counts = mask.sum(-1)
    clipped = terms["clipped_low"] | terms["clipped_high"]
    ratios, shares = (
        (torch.where(mask, values.double(), 0.0).sum(-1) / counts).tolist()
        for values in (torch.exp(logprobs - inputs.engine), clipped)
    )
    by_sample = logprobs[mask].cpu().split(counts.tolist())
    return [
        Outcome(sample.rollout_id, values.tolist(), ratio, share)
        for sample, values, ratio, share in zip(samples, by_sample, ratios, shares, strict=True)
    ]
