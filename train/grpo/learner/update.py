"""The updates of a step: learning rate, sums over micro-batches and ranks, checks for values that are not finite, and the step's result."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....base.errors import TrainingError
from ..config_policy import GrpoOptimizer
from ..loss import MAX_LOG_RATIO, LossInputs, PolicyLoss
from .batch import TrainSample

METRICS = {
    "ratio": "train/ratio_mean",
    "clipped_low": "train/clip_frac_low",
    "clipped_high": "train/clip_frac_high",
    "clipped_dual": "train/clip_frac_dual",
    "masked": "mismatch/masked_frac",
    "weight": "mismatch/weight_mean",
    "kl_k1": "train/kl_ref_k1",
    "kl_k3": "train/kl_ref",
    "kl_teacher": "train/kl_teacher",
}
"""The metric that is the mean over sampled tokens of each of PolicyLoss.terms; those of a user's own loss keep their names."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one sample in a step.

    Attributes:
        logprobs: One per sampled token, in order: the learner's before the update.
        ratio_mean: Mean of exp(learner - engine) over its sampled tokens; NaN without any.
        clipped_share: Share of its sampled tokens that the clip took out; NaN without any, None with a user's own loss.
        entropies: Parallel to logprobs: of the learner's distribution, in nats; None when they were not computed.
    """

    rollout_id: str
    logprobs: list[float]
    ratio_mean: float
    clipped_share: float | None
    entropies: list[float] | None = None


@dataclass
class TokenSums:
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
        gap = (inputs.logprobs.detach() - inputs.engine_logprobs)[mask].double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        weight = gap.exp()
        found = {
            "mismatch/logp_abs_diff": gap.abs(),
            "mismatch/kl": weight - 1 - gap,
            "mismatch/mult_prob_error": gap.abs().exp(),
            "weight": weight,
            "weight_squared": weight**2,
        } | {METRICS.get(name, name): values[mask] for name, values in terms.items()}
        if inputs.entropies is not None:
            found["train/entropy"] = inputs.entropies.detach()[mask]
        if gap.numel():
            ratio = terms["ratio"][mask].double()
            # One transfer for all of them: on a GPU each would wait for it.
            sums = [values.double().sum() for values in found.values()]
            *totals, smallest, largest = torch.stack([*sums, ratio.min(), ratio.max()]).tolist()
            self.merge(TokenSums(gap.numel(), dict(zip(found, totals, strict=True)), (smallest, largest)))

    def merge(self, other: "TokenSums") -> None:
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


def outcomes(samples: Sequence[TrainSample], inputs: LossInputs, terms: Mapping[str, Tensor]) -> list[Outcome]:
    """One a sample, in order; the samples are parallel to the rows of the matrices. Taken at the first update, when logprobs are those before it."""
    mask, logprobs = inputs.mask, inputs.logprobs.detach()
    counts = mask.sum(-1)
    bounds = [terms[name] for name in ("clipped_low", "clipped_high") if name in terms]

    def means(values: Tensor) -> list[float]:
        return (torch.where(mask, values.double(), 0.0).sum(-1) / counts).tolist()

    ratios = means(torch.exp(logprobs - inputs.engine_logprobs))
    shares = means(bounds[0] | bounds[1]) if bounds else [None] * len(ratios)
    lengths = counts.tolist()
    by_sample = logprobs[mask].cpu().split(lengths)
    entropies = [None] * len(lengths) if inputs.entropies is None else [one.tolist() for one in inputs.entropies.detach()[mask].cpu().split(lengths)]  # fmt: skip
    return [
        Outcome(sample.rollout_id, values.tolist(), ratio, share, spread)
        for sample, values, ratio, share, spread in zip(samples, by_sample, ratios, shares, entropies, strict=True)
    ]


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Attributes:
        loss: At its first update; None when the batch was empty or that update was skipped.
        metrics: By name, `train/…` and `mismatch/…`, and the counts behind the means.
        outcomes: In the order of the samples, at the first update; none when the batch was empty or that update was skipped.
        skipped: Rollouts of the micro-batches whose loss was not finite, or of the whole batch when its gradient was not, where grpo.on_nonfinite is `skip`.
    """

    loss: float | None
    metrics: dict[str, float]
    outcomes: list[Outcome]
    skipped: tuple[str, ...] = ()


@dataclass
class Update:
    """What the passes over the micro-batches of one update found; those of several ranks add up.

    Attributes:
        outcomes: By position in the samples.
        not_finite: Positions in the samples of the micro-batches whose loss is not finite, and the first such loss.
    """

    losses: list[float] = field(default_factory=list)
    tally: TokenSums = field(default_factory=TokenSums)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    not_finite: list[int] = field(default_factory=list)
    grad_norm: float = 0.0

    @property
    def loss(self) -> float:
        """The whole step's."""
        return math.fsum(self.losses)

    def add(
        self, positions: Sequence[int], samples: Sequence[TrainSample], inputs: LossInputs, found: PolicyLoss
    ) -> None:
        """Adds a micro-batch; `positions` are those of its samples among the step's."""
        loss = found.loss.item()
        self.losses.append(loss)
        if not math.isfinite(loss):
            self.not_finite += positions
        self.tally.add(inputs, found.terms)
        self.outcomes |= dict(zip(positions, outcomes(samples, inputs, found.terms), strict=True))


def merge(updates: Sequence[Update]) -> Update:
    """One update of those of all ranks, each of which knows the norm of the whole gradient."""
    total = updates[0]
    for other in updates[1:]:
        total.losses += other.losses
        total.tally.merge(other.tally)
        total.outcomes |= other.outcomes
        total.not_finite += other.not_finite
    return total


def not_finite(
    update: Update, samples: Sequence[TrainSample], step: int
) -> tuple[TrainingError | None, tuple[str, ...]]:
    """What is not finite in an update, with the rollouts it was found in; None and none when all is."""
    if update.not_finite:
        value = next(loss for loss in update.losses if not math.isfinite(loss))
        what, positions = "loss", sorted(update.not_finite)
    elif not math.isfinite(update.grad_norm):
        what, value, positions = "gradient norm", update.grad_norm, list(range(len(samples)))
    else:
        return None, ()
    ids = tuple(samples[position].rollout_id for position in positions)
    shown = ", ".join(ids[:8]) + (", …" if len(ids) > 8 else "")
    error = TrainingError(
        f"The {what} of step {step} is {value} in the batch of rollouts {shown}.",
        "The whole batch is in batch_plans under this run and step; inspect its logprobs, lower policy.optimizer.lr, or set grpo.on_nonfinite=skip.",
    )
    return error, ids


def step_result(
    done: Sequence[Update], lr: float, n_samples: int, skipped: tuple[str, ...], on_nonfinite: str
) -> StepResult:
    """The result of a step from the updates that were made.

    Where there were several, loss, outcomes and `mismatch/…` are those of the first, which saw the batch as it was sampled, the other metrics
    those of the last, since at the first every ratio is 1.
    """
    metrics = {"train/lr": lr} | ({"train/skipped": float(bool(skipped))} if on_nonfinite == "skip" else {})
    if not done:
        return StepResult(None, metrics, [], skipped)
    first, last = done[0].tally.metrics(), done[-1].tally.metrics()
    metrics |= last | {name: value for name, value in first.items() if name.startswith("mismatch/")}
    metrics |= {"train/loss": done[0].loss, "train/grad_norm": done[-1].grad_norm}
    return StepResult(done[0].loss, metrics, [done[0].outcomes[position] for position in range(n_samples)], skipped)


def learning_rate(step: int, optimizer: GrpoOptimizer) -> float:
    """The learning rate of step `step`, the first being 1.

    It rises linearly over `warmup_steps`, reaching `lr` with the last of them. Then it stays (`constant`), or falls to `min_lr` over
    `decay_steps`, in a line or in half a cosine, and stays there.
    """
    if step <= optimizer.warmup_steps:
        return optimizer.lr * step / optimizer.warmup_steps
    if optimizer.scheduler == "constant":
        return optimizer.lr
    assert optimizer.decay_steps, "GrpoOptimizer refuses a schedule that falls without them"
    done = min(1.0, (step - optimizer.warmup_steps) / optimizer.decay_steps)
    left = 1 - done if optimizer.scheduler == "linear" else (1 + math.cos(math.pi * done)) / 2
    return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * left


@contextmanager
def out_of_memory(doing: str) -> Iterator[None]:
    """Turns torch's out-of-memory errors, of GPU and CPU, into a TrainingError that names the settings to change."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in text:
            raise
        first = next((line for line in text.splitlines() if "allocate" in line), text).strip().rstrip(".")
        raise TrainingError(
            f"Memory ran out in {doing}: {first}.",
            "Lower policy.train_mb_tokens or policy.logprob_chunk_tokens, or set policy.activation_checkpointing=true; then start the same command again to resume.",
        ) from error
