"""What one optimizer step is measured by: sums over its sampled tokens, and what became of each sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .batch import MicroBatch, Sample
from .loss import clipped_tokens


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
    """Sums over the sampled tokens of a step, micro-batch by micro-batch.

    Attributes:
        sums: By metric name.
        ratios: Smallest and largest PPO ratio so far.
    """

    n_tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    ratios: tuple[float, float] = (math.inf, -math.inf)

    def add(
        self, batch: MicroBatch, logprobs: Tensor, old: Tensor, entropies: Tensor, clip: tuple[float, float]
    ) -> None:
        """Adds one micro-batch; all matrices are [B, T] without gradient, `clip` is (clip_low, clip_high)."""
        low, high = clipped_tokens(logprobs, old, batch.advantages, *clip)
        ratio, gap = torch.exp(logprobs - old), logprobs - batch.engine_logprobs
        weight = gap.exp()
        terms = {
            "train/entropy": entropies,
            "train/clip_frac_low": low,
            "train/clip_frac_high": high,
            "train/ratio_mean": ratio,
            "mismatch/logp_abs_diff": gap.abs(),
            "mismatch/kl": weight - 1 - gap,
            "mismatch/mult_prob_error": gap.abs().exp(),
            "weight": weight,
            "weight_squared": weight**2,
        }
        for name, values in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + values[batch.mask].double().sum().item()
        self.n_tokens += int(batch.mask.sum())
        if batch.mask.any():
            sampled = ratio[batch.mask]
            self.ratios = (min(self.ratios[0], sampled.min().item()), max(self.ratios[1], sampled.max().item()))

    def metrics(self) -> dict[str, float]:
        """Means over tokens; `mismatch/ess` is the effective share of the sample, (sum w)^2 / (n * sum w^2)."""
        means = {name: total / self.n_tokens for name, total in self.sums.items()}
        weight, squared = means.pop("weight"), means.pop("weight_squared")
        smallest, largest = self.ratios
        return means | {
            "mismatch/ess": weight**2 / squared,
            "train/ratio_min": smallest,
            "train/ratio_max": largest,
            "train/n_tokens": float(self.n_tokens),
        }


def outcomes(
    samples: Sequence[Sample], batch: MicroBatch, logprobs: Tensor, old: Tensor, clip: tuple[float, float]
) -> list[Outcome]:
    """One a sample, in order; the matrices are [B, T] without gradient."""
    low, high = clipped_tokens(logprobs, old, batch.advantages, *clip)
    weight = torch.exp(logprobs - batch.engine_logprobs)
    return [
        Outcome(
            sample.rollout_id,
            logprobs[row, mask].tolist(),
            weight[row, mask].mean().item(),
            (low | high)[row, mask].float().mean().item(),
        )
        for row, (sample, mask) in enumerate(zip(samples, batch.mask, strict=True))
    ]
