"""The learner: a torch model with AdamW that takes one optimizer step a batch. Needs torch and transformers only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...store.errors import TrainingError
from .batch import MicroBatch, Sample, collate
from .learner_settings import LearnerSettings
from .logprobs import token_logprobs
from .loss import clipped_loss, sequence_mean, token_mean, truncated_importance_weights
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
        n_tokens = sum(sample.n_sampled for sample in samples)
        n_sequences = sum(sample.n_sampled > 0 for sample in samples)
        if n_tokens == 0:
            return StepResult(None, {"train/n_tokens": 0.0, "train/lr": lr}, [])

        clip = (self.settings.loss.clip_low, self.settings.loss.clip_high)
        losses, tally, results = [], Tally(), {}
        self.optimizer.zero_grad(set_to_none=True)
        for positions in micro_batches:
            chosen = [samples[position] for position in positions]
            batch = collate(chosen, self.settings.device)
            loss, logprobs, old, entropies = self._loss(batch, n_tokens, n_sequences)
            if not torch.isfinite(loss):
                raise _not_finite("loss", loss.item(), self.steps, chosen)
            loss.backward()
            losses.append(loss.item())
            tally.add(batch, logprobs, old, entropies, clip)
            results |= dict(zip(positions, outcomes(chosen, batch, logprobs, old, clip), strict=True))

        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm).item()
        if not math.isfinite(grad_norm):
            raise _not_finite("gradient norm", grad_norm, self.steps, samples)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

        loss = math.fsum(losses)
        metrics = tally.metrics() | {"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr}
        return StepResult(loss, metrics, [results[position] for position in range(len(samples))])

    def _loss(self, batch: MicroBatch, n_tokens: int, n_sequences: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """This micro-batch's share of the step's loss; logprobs, old logprobs and entropies, without gradient."""
        s = self.settings
        logprobs, entropies = token_logprobs(self.model, batch.input_ids, batch.mask, s.temperature)
        old = logprobs.detach() if s.loss.old_logprobs == "learner" else batch.engine_logprobs
        loss = clipped_loss(logprobs, old, batch.advantages, s.loss.clip_low, s.loss.clip_high)
        if s.loss.correction != "none" and s.loss.old_logprobs == "learner":
            loss = loss * truncated_importance_weights(old, batch.engine_logprobs, s.loss.correction_max)
        by_token = s.loss.aggregation == "token_mean"
        total = token_mean(loss, batch.mask, n_tokens) if by_token else sequence_mean(loss, batch.mask, n_sequences)
        return total, logprobs.detach(), old, entropies

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
