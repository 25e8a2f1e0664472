"""Direct preference optimisation with TRL's DPOTrainer, or on the learner, scoring only the tokens of the policy.

TRL treats a completion as one text of the policy. In a trajectory tool results stand between the turns, and a template may rewrite
the history between them. The rows are therefore tokenised here, with their masks, and brought into TRL's loss by `sides`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from ..base.config import Flag, Section
from ..base.errors import ConfigError
from ..base.packages import need
from ..store.ids import hash_id
from ..store.lance_store import LanceStore
from ..transform.materialize import iter_dpo
from .lora import peft_config
from .offline import MakeTrainer, OnStep, Start, load_model, train_offline
from .offline_config import OfflineConfig
from .on_learner import Length, Rows, learned_logprobs, sequence, train_on_learner
from .preference import PairScore, score_pair, side_logprob
from .row_files import write_rows
from .sides import DPO_COLUMNS, LENGTHS, PairCollator, SidesModel, dpo_columns, without
from .tokens import Tokenizing
from .trl_setup import make_arguments, trl_arguments
from .whole_batches import N_ROWS, whole_batches

_UNITS = {"entropy": "tokens", "logits/chosen": "chosen_tokens", "logits/rejected": "rejected_tokens", "mean_token_accuracy": "chosen_tokens"}  # fmt: skip
_REFERENCES_AT_ONCE = 64
_OF_A_BATCH = {"aot", "aot_unpaired"}
"""Losses of TRL that compare the pairs of a micro-batch with each other."""


class DpoAlgorithm(Section):
    """Settings of the section `dpo`: the loss and the length of the training."""

    reference_policy_kl_penalty: float = Field(default=0.1, gt=0)
    """Beta: how strongly the policy is kept near the model it started from."""
    preference_average_log_probs: bool = False
    """Compare mean instead of summed log-probabilities."""
    preference_loss_weight: float = Field(default=1.0, gt=0)
    """Weight of the preference loss."""
    reference_free: bool = False
    """Use the policy's own log-probabilities instead of their difference to the reference's. With `preference_average_log_probs` this is the loss of SimPO (Meng et al. 2024) without its margin."""
    sft_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of the negative log-likelihood of the chosen sides, a mean over the tokens of the step, which keeps it from rising."""
    max_num_epochs: Annotated[float, Flag("Training")] = Field(default=1, gt=0)
    """Passes over the dataset."""
    max_num_steps: Annotated[int | None, Flag("Training")] = Field(default=None, ge=1)
    """Optimizer steps. Default: those of max_num_epochs."""
    seed: Annotated[int, Flag("Training")] = 0
    """Seed of the training."""


class DpoConfig(OfflineConfig):
    """The configuration of `train dpo`. Batch sizes count pairs."""

    dpo: DpoAlgorithm = Field(default_factory=DpoAlgorithm)


class Preferences:
    """The objective of DPO on the learner. References are the logprobs of the first weights, computed once for every row."""

    def __init__(self, algorithm: DpoAlgorithm) -> None:
        self._dpo = algorithm
        self._references: dict[str, tuple[float, float]] = {}

    def prepare(self, learner: Any, rows: Rows) -> None:
        """See Objective."""
        if not self._dpo.reference_free:
            for first in range(0, len(rows), _REFERENCES_AT_ONCE):
                some = [rows[place] for place in range(first, min(first + _REFERENCES_AT_ONCE, len(rows)))]
                found, _ = self._scored(learner, some)
                self._references |= dict(zip(map(_key, some), found, strict=True))

    def samples(self, learner: Any, rows: Rows) -> tuple[list[Any], dict[str, float]]:
        """See Objective."""
        scores, sides = self._pairs(learner, rows)
        dpo, n = self._dpo, len(rows)
        n_chosen = sum(sample.n_sampled for chosen, _ in sides for sample in chosen)
        found, likelihood = [], 0.0
        for score, pair, values in zip(scores, sides, self._values, strict=True):
            for sign, samples, logprobs in zip((1, -1), pair, values, strict=True):
                tokens = sum(sample.n_sampled for sample in samples)
                weight = sign * dpo.preference_loss_weight * score.weight / n
                weight /= max(tokens, 1) if dpo.preference_average_log_probs else 1
                if sign > 0:
                    weight += dpo.sft_loss_weight / max(n_chosen, 1)
                    likelihood -= math.fsum(logprobs) / max(n_chosen, 1)
                found += [replace(sample, advantage=weight) for sample in samples]
        numbers = self._numbers(scores)
        numbers["loss"] = dpo.preference_loss_weight * numbers["loss"] + dpo.sft_loss_weight * likelihood
        return found, numbers

    def measure(self, learner: Any, rows: Rows) -> dict[str, float]:
        """See Objective."""
        return self._numbers(self._pairs(learner, list(rows))[0])

    def _numbers(self, scores: list[PairScore]) -> dict[str, float]:
        return {
            "loss": fmean(score.loss for score in scores),
            "rewards/margins": fmean(score.margin for score in scores),
            "rewards/accuracies": fmean(score.margin > 0 for score in scores),
        }

    def _pairs(self, learner: Any, rows: Rows) -> tuple[list[PairScore], list[tuple[list[Any], list[Any]]]]:
        found, sides = self._scored(learner, rows)
        references = [self._references.get(_key(row), (0.0, 0.0)) for row in rows]
        beta = self._dpo.reference_policy_kl_penalty
        return [score_pair(*own, *reference, beta) for own, reference in zip(found, references, strict=True)], sides

    def _scored(self, learner: Any, rows: Rows) -> tuple[list[tuple[float, float]], list[tuple[list[Any], list[Any]]]]:
        """The logprobs of both sides of each row, and the sides' sequences; the logprobs of their tokens are in _values."""
        sides = [(side_sequences(row, "chosen"), side_sequences(row, "rejected")) for row in rows]
        flat = [sample for pair in sides for side in pair for sample in side]
        found = iter(learned_logprobs(learner, flat))
        self._values = [tuple([value for _ in side for value in next(found)] for side in pair) for pair in sides]
        mean = self._dpo.preference_average_log_probs
        return [(side_logprob(chosen, mean), side_logprob(rejected, mean)) for chosen, rejected in self._values], sides


def side_sequences(row: Mapping[str, list[int]], side: str) -> list[Any]:
    """The sequences of one side of a row of dpo_columns."""
    ids, mask, found, at = row[f"{side}_ids"], row[f"{side}_mask"], [], 0
    for length in row[f"{side}_lengths"]:
        found.append(sequence(side, ids[at : at + length], mask[at : at + length]))
        at += length
    return found


def _key(row: Mapping[str, list[int]]) -> str:
    return hash_id(row["chosen_ids"], row["rejected_ids"])


def train_dpo(store: LanceStore, config: DpoConfig, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains on a dataset of pairs and returns the row of the last checkpoint. Arguments, result and errors are those of train_sft."""
    if config.trainer == "learner":
        length = Length(config.dpo.max_num_steps, config.dpo.max_num_epochs, config.dpo.seed)

        def write(start: Start, scratch: Path) -> tuple[Rows, Rows, dict[str, Any]]:
            tokens = start.tokenizing(config.policy)
            train, held_out = write_rows(_rows(store, start, tokens), scratch, DPO_COLUMNS, config.validation.share)
            return train, held_out or (), tokens.check() | {"validation": 2 * len(held_out or ())}

        return train_on_learner(store, "dpo", config, length, write, Preferences(config.dpo), on_step)

    def prepare(start: Start, scratch: Path) -> tuple[dict[str, Any], MakeTrainer]:
        tokens = start.tokenizing(config.policy)
        train, validation = write_rows(_rows(store, start, tokens), scratch, DPO_COLUMNS, config.validation.share)
        counts = tokens.check()

        def make_trainer(state: Path) -> Any:
            algorithm, tokenizer = config.dpo, start.chat.tokenizer
            ours = trl_arguments(config, state, algorithm.max_num_steps, algorithm.max_num_epochs, algorithm.seed)
            # The reference is the model before its first step, so its log-probabilities are computed once, before training.
            ours |= {"beta": algorithm.reference_policy_kl_penalty, "precompute_ref_log_probs": True, **loss(algorithm)}
            args = make_arguments(need("trl").DPOConfig, ours, config.trl)
            _refuse_losses_of_a_batch(args)
            pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
            model = load_model(start.folder)
            return trajectory_trainer(algorithm.reference_free)(
                model=model,
                args=args,
                train_dataset=train,
                eval_dataset=validation,
                processing_class=tokenizer,
                data_collator=PairCollator(pad),
                peft_config=peft_config(config.policy.lora, model),
            )

        return counts | {"validation": 2 * len(validation or ())}, make_trainer

    return train_offline(store, "dpo", config, prepare, on_step)


def _rows(store: LanceStore, start: Start, tokens: Tokenizing) -> Iterator[tuple[str, dict[str, list[int]]]]:
    for pair in iter_dpo(store, start.dataset):
        sides = tokens.pair(pair)
        if sides is not None:
            yield pair.chosen.task_id, dpo_columns(*sides)


def loss(algorithm: DpoAlgorithm) -> dict[str, Any]:
    """TRL's loss types and their weights."""
    types = ["sigmoid_norm" if algorithm.preference_average_log_probs else "sigmoid"]
    weights = [algorithm.preference_loss_weight]
    if algorithm.sft_loss_weight:
        types, weights = [*types, "sft"], [*weights, algorithm.sft_loss_weight]
    return {"loss_type": types, "loss_weights": weights}


def _refuse_losses_of_a_batch(args: Any) -> None:
    """Raises ConfigError for a loss whose value depends on how the batch is divided, unless it is not divided."""
    divided = args.gradient_accumulation_steps * args.world_size > 1
    wrong = sorted(_OF_A_BATCH & set(args.loss_type))
    if wrong and divided:
        raise ConfigError(
            f"trl.loss_type={wrong[0]} sorts the pairs of a batch, and the batch is divided.",
            "Set policy.train_micro_batch_size to policy.train_global_batch_size and use one process.",
        )
    if args.use_weighting and "sft" in args.loss_type:
        raise ConfigError("trl.use_weighting weights pairs, which the sft loss has not.", "Leave out one of the two.")


def trajectory_trainer(reference_free: bool = False) -> Any:
    """TRL's DPOTrainer for rows of dpo_columns. With `reference_free` the reference log-probabilities are 0 and are not computed."""
    import torch
    from trl.trainer.dpo_trainer import DPOTrainer

    class TrajectoryDPOTrainer(whole_batches(DPOTrainer)):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = [*DPO_COLUMNS, "ref_chosen_logps", "ref_rejected_logps"]

        def weights_of(self, inputs: Mapping[str, Any]) -> dict[str, float]:
            chosen, rejected = (float(mask.sum()) for mask in inputs["completion_mask"].chunk(2))
            counts = {"rows": 1.0, "tokens": chosen + rejected, "chosen_tokens": chosen, "rejected_tokens": rejected}
            pairs = float(inputs[N_ROWS][0])
            return counts | {"rows": pairs} if pairs else dict.fromkeys(counts, 0.0)

        def mean_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
            sides = SidesModel(model, inputs[LENGTHS])
            types, weights = self.loss_types, self.loss_weights
            kept = [(name, weight) for name, weight in zip(types, weights, strict=True) if name != "sft"]
            self.loss_types, self.loss_weights = [name for name, _ in kept], [weight for _, weight in kept]
            try:
                found = super()._compute_loss(sides, without(inputs, LENGTHS), False)
            finally:
                self.loss_types, self.loss_weights = types, weights
            means = {"rows": found}
            likelihood = sum(weight for name, weight in zip(types, weights, strict=True) if name == "sft")
            if likelihood:
                mask = inputs["completion_mask"][:, 1:].chunk(2)[0]
                logps = sides.outputs.log_probs[:, -mask.shape[1] :].chunk(2)[0]
                means["chosen_tokens"] = -(logps * mask).sum() / mask.sum().clamp(min=1) * likelihood
            return means, _UNITS

        def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
            pairs = inputs["input_ids"].shape[0] // 2
            if reference_free:
                return torch.zeros(pairs), torch.zeros(pairs)
            return super().compute_ref_log_probs(SidesModel(model, inputs[LENGTHS]), without(inputs, LENGTHS))

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            # TRL writes them to a file beside the rows, which only the first process would have.
            from accelerate.utils import gather_object

            own = range(self.accelerator.process_index, len(dataset), self.accelerator.num_processes)
            found: list[tuple[int, float, float]] = []
            for start in range(0, len(own), batch_size):
                places = list(own[start : start + batch_size])
                batch = self._prepare_inputs(self._collated([dataset[place] for place in places]))
                chosen, rejected = self.compute_ref_log_probs(self.model, batch)
                found += zip(places, chosen.tolist(), rejected.tolist(), strict=True)
            both = sorted(gather_object(found) if self.accelerator.num_processes > 1 else found)
            dataset = dataset.add_column("ref_chosen_logps", [chosen for _, chosen, _ in both])
            return dataset.add_column("ref_rejected_logps", [rejected for _, _, rejected in both])

        def _collated(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            return without(self.data_collator(examples), N_ROWS)

    return TrajectoryDPOTrainer
