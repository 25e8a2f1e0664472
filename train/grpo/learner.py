"""The learner: a torch model with AdamW that takes one optimizer step a batch. Needs torch and transformers only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...store.errors import TrainingError
from .aggregation import StepTotals
from .batch import MicroBatch, Sample, collate
from .learner_settings import LearnerSettings
from .logprobs import token_logprobs
from .loss import LossInputs, policy_loss
from .measures import Outcome, Tally, outcomes


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did.

    Attributes:
        loss: None when the batch was empty and no step was taken.
        metrics: By name, `train/…` and `mismatch/…`, and the counts behind the means.
        outcomes: In the order of the samples.
    """

    loss: float | None
    metrics: dict[str, float]
    outcomes: list[Outcome]


class Learner:
    """Holds the model and its optimizer. Weights are float32."""

    def __init__(self, model: str, settings: LearnerSettings) -> None:
        """Loads a model folder that transformers reads."""
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model.to(settings.device)
        # Evaluation mode: dropout would make the learner disagree with the engine that sampled.
        self.model.eval()
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.lr, settings.betas, settings.eps, settings.weight_decay
        )
        self.steps = 0

    def step(self, samples: Sequence[Sample], micro_batches: Sequence[Sequence[int]]) -> StepResult:
        """One optimizer step over all samples; the gradient does not depend on how `micro_batches` splits them.

        Args:
            micro_batches: Positions in `samples`; each position in exactly one.

        Raises TrainingError, with the weights as they were, when the loss or the gradient is not finite.
        """
        self.steps += 1
        lr = self.settings.lr * min(1.0, self.steps / max(1, self.settings.warmup_steps))
        totals = StepTotals(
            sum(sample.n_sampled for sample in samples), sum(sample.n_sampled > 0 for sample in samples)
        )
        if totals.n_tokens == 0:
            return StepResult(None, {"train/n_tokens": 0.0, "train/lr": lr}, [])

        losses, tally, results = [], Tally(), {}
        self.optimizer.zero_grad(set_to_none=True)
        for positions in micro_batches:
            chosen = [samples[position] for position in positions]
            batch = collate(chosen, self.settings.device)
            inputs = self._inputs(batch)
            found = policy_loss(inputs, totals, self.settings.loss)
            if not torch.isfinite(found.loss):
                raise _not_finite("loss", found.loss.item(), self.steps, chosen)
            found.loss.backward()
            losses.append(found.loss.item())
            tally.add(inputs, found.terms)
            results |= dict(zip(positions, outcomes(chosen, inputs, found.terms), strict=True))

        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm).item()
        if not math.isfinite(grad_norm):
            raise _not_finite("gradient norm", grad_norm, self.steps, samples)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

        loss = math.fsum(losses)
        metrics = tally.metrics() | {"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr}
        return StepResult(loss, metrics, [results[position] for position in range(len(samples))])

    def _inputs(self, batch: MicroBatch) -> LossInputs:
        """What the loss of a micro-batch is computed from."""
        logprobs, entropies = token_logprobs(self.model, batch.input_ids, batch.mask, self.settings.temperature)
        old = logprobs.detach() if self.settings.loss.old_logprobs == "learner" else batch.engine_logprobs
        return LossInputs(
            logprobs, old, batch.engine_logprobs, batch.mask, batch.advantages, reference=None, entropies=entropies
        )

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """For each (prompt ids, token ids): the logprob of every token of the second, at temperature 1."""
        result = []
        for prompt_ids, token_ids in sequences:
            n = len(token_ids)
            batch = collate([Sample("", prompt_ids, token_ids, [1] * n, [0.0] * n)], self.settings.device)
            logprobs, _ = token_logprobs(self.model, batch.input_ids, batch.mask)
            result.append(logprobs[batch.mask].tolist())
        return result

    def save_weights(self, path: str) -> None:
        """Writes all weights to one safetensors file, replacing it at once; tied weights are there once."""
        from safetensors.torch import save_file

        # named_parameters lists a shared tensor under its first name only, which is how engines expect tied embeddings.
        tensors = {name: parameter.detach().contiguous() for name, parameter in self.model.named_parameters()}
        save_file(tensors, f"{path}.tmp", metadata={"format": "pt"})
        Path(f"{path}.tmp").replace(path)

    def save_pretrained(self, folder: str) -> None:
        """Writes config and weights as a model folder (the tokenizer is the caller's)."""
        self.model.save_pretrained(folder)


def _not_finite(what: str, value: float, step: int, samples: Sequence[Sample]) -> TrainingError:
    names = ", ".join(sample.rollout_id for sample in samples[:8]) + (", …" if len(samples) > 8 else "")
    return TrainingError(
        f"The {what} of step {step} is {value} in the batch of rollouts {names}.",
        "The whole batch is in batch_plans under this run and step; look at its logprobs, or lower policy.optimizer.lr.",
    )
