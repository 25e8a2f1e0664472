"""What the updates of a step found: adding up over micro-batches and ranks, judging whether all is finite, and the step's result."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ....base.errors import TrainingError
from ..algorithm.loss import LossInputs, PolicyLoss
from .batch import Sample
from .measures import Outcome, Tally, outcomes
from .settings import LearnerSettings


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Attributes:
        loss: At its first update; None when the batch was empty or that update was skipped.
        metrics: By name, `train/…` and `mismatch/…`, and the counts behind the means.
        outcomes: In the order of the samples, at the first update; none when the batch was empty or that update was skipped.
        skipped: Rollouts of the micro-batches whose loss was not finite, or of the whole batch when its gradient was not, where settings.on_nonfinite is `skip`.
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
    tally: Tally = field(default_factory=Tally)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    not_finite: list[int] = field(default_factory=list)
    grad_norm: float = 0.0

    @property
    def loss(self) -> float:
        """The whole step's."""
        return math.fsum(self.losses)

    def add(self, positions: Sequence[int], samples: Sequence[Sample], inputs: LossInputs, found: PolicyLoss) -> None:
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


def not_finite(update: Update, samples: Sequence[Sample], step: int) -> tuple[TrainingError | None, tuple[str, ...]]:
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
        "The whole batch is in batch_plans under this run and step; look at its logprobs, lower policy.optimizer.lr, or set grpo.on_nonfinite=skip.",
    )
    return error, ids


def step_result(
    done: Sequence[Update], lr: float, n_samples: int, skipped: tuple[str, ...], settings: LearnerSettings
) -> StepResult:
    """The result of a step from the updates that were made.

    Where there were several, loss, outcomes and `mismatch/…` are those of the first, which saw the batch as it was sampled, the other metrics
    those of the last, since at the first every ratio is 1.
    """
    metrics = {"train/lr": lr} | ({"train/skipped": float(bool(skipped))} if settings.on_nonfinite == "skip" else {})
    if not done:
        return StepResult(None, metrics, [], skipped)
    first, last = done[0].tally.metrics(), done[-1].tally.metrics()
    metrics |= last | {name: value for name, value in first.items() if name.startswith("mismatch/")}
    metrics |= {"train/loss": done[0].loss, "train/grad_norm": done[-1].grad_norm}
    return StepResult(done[0].loss, metrics, [done[0].outcomes[position] for position in range(n_samples)], skipped)
