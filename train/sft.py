"""Supervised fine-tuning on demonstrations, from tokens and their loss mask: with TRL's SFTTrainer, or on the learner."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..base.config import Flag, Section
from ..base.packages import need
from ..store.lance_store import LanceStore
from ..transform.materialize import iter_sft
from .lora import peft_config
from .offline import MakeTrainer, OnStep, Start, load_model, train_offline
from .offline_config import OfflineConfig
from .on_learner import Length, Rows, learned_logprobs, sequence, train_on_learner
from .row_files import write_rows
from .tokens import Tokenizing, TokenRow
from .trl_setup import make_arguments, trl_arguments
from .whole_batches import N_ROWS, whole_batches

IGNORED = -100
"""Label of a token that is excluded from the loss."""
SFT_COLUMNS = ("input_ids", "labels")


class SftAlgorithm(Section):
    """Settings of the section `sft`: the length of the training and the order of the rows."""

    max_num_epochs: Annotated[float, Flag("Training")] = Field(default=1, gt=0)
    """Passes over the dataset."""
    max_num_steps: Annotated[int | None, Flag("Training")] = Field(default=None, ge=1)
    """Optimizer steps. Default: those of max_num_epochs."""
    seed: Annotated[int, Flag("Training")] = 0
    """Seed of the training."""


class SftConfig(OfflineConfig):
    """The configuration of `train sft`."""

    sft: SftAlgorithm = Field(default_factory=SftAlgorithm)


class Demonstrations:
    """The objective of SFT on the learner: the mean over the learned tokens of a step of minus their logprob."""

    def prepare(self, learner: Any, rows: Rows) -> None:
        """Nothing is needed."""

    def samples(self, learner: Any, rows: Rows) -> tuple[list[Any], dict[str, float]]:
        """See Objective."""
        found = self._sequences(rows)
        n_tokens = sum(sample.n_sampled for sample in found)
        return [replace(sample, advantage=1 / max(n_tokens, 1)) for sample in found], {}

    def measure(self, learner: Any, rows: Rows) -> dict[str, float]:
        """See Objective."""
        found = [value for values in learned_logprobs(learner, self._sequences(rows)) for value in values]
        return {"loss": -math.fsum(found) / max(len(found), 1)}

    def _sequences(self, rows: Rows) -> list[Any]:
        return [sequence(str(n), row["input_ids"], [label != IGNORED for label in row["labels"]]) for n, row in enumerate(rows)]  # fmt: skip


def train_sft(store: LanceStore, config: SftConfig, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains on a dataset of demonstrations and returns the row of the last checkpoint.

    A run of that name that finished with the same configuration is not trained again: its checkpoint is returned. An interrupted
    run resumes from its last saved state and reaches the same weights.

    Args:
        on_step: Called after every optimizer step with steps done, total steps and a note.

    Returns:
        The row of the table `checkpoints`; empty in processes other than the first of a distributed run.

    Raises:
        ConfigError: The model, the dataset or a setting does not fit, or a run of that name exists with a different
            configuration. Raised before training starts.
        StoreNotFound: There is no such dataset.
        MissingExtra: TRL is not installed.
        TrainingError: The loss is not finite.
    """
    if config.trainer == "learner":
        length = Length(config.sft.max_num_steps, config.sft.max_num_epochs, config.sft.seed)

        def write(start: Start, scratch: Path) -> tuple[Rows, Rows, dict[str, Any]]:
            tokens = start.tokenizing(config.policy)
            train, held_out = write_rows(_rows(store, start, tokens), scratch, SFT_COLUMNS, config.validation.share)
            return train, held_out or (), tokens.check() | {"validation": len(held_out or ())}

        return train_on_learner(store, "sft", config, length, write, Demonstrations(), on_step)

    def prepare(start: Start, scratch: Path) -> tuple[dict[str, Any], MakeTrainer]:
        tokens = start.tokenizing(config.policy)
        train, validation = write_rows(_rows(store, start, tokens), scratch, SFT_COLUMNS, config.validation.share)
        counts = tokens.check()

        def make_trainer(state: Path) -> Any:
            trl, algorithm = need("trl"), config.sft
            ours = trl_arguments(config, state, algorithm.max_num_steps, algorithm.max_num_epochs, algorithm.seed)
            model = load_model(start.folder)
            return token_trainer()(
                model=model,
                args=make_arguments(trl.SFTConfig, ours, config.trl),
                train_dataset=train,
                eval_dataset=validation,
                processing_class=start.chat.tokenizer,
                peft_config=peft_config(config.policy.lora, model),
            )

        return counts | {"validation": len(validation or ())}, make_trainer

    return train_offline(store, "sft", config, prepare, on_step)


def _rows(store: LanceStore, start: Start, tokens: Tokenizing) -> Iterator[tuple[str, dict[str, list[int]]]]:
    for trajectory in iter_sft(store, start.dataset):
        for row in tokens.rows(trajectory):
            yield trajectory.task_id, sft_columns(row)


def sft_columns(row: TokenRow) -> dict[str, list[int]]:
    """The row in TRL's tokenised columns: `input_ids`, and parallel `labels` that exclude the tokens that the policy did not sample."""
    learned = [token if bit else IGNORED for token, bit in zip(row.response_ids, row.mask, strict=True)]
    return {"input_ids": row.prompt_ids + row.response_ids, "labels": [IGNORED] * len(row.prompt_ids) + learned}


def token_trainer() -> Any:
    """TRL's SFTTrainer, whose loss is the mean over the learned tokens of a step, however the step is divided."""
    from trl.trainer.sft_trainer import SFTTrainer

    class TokenSFTTrainer(whole_batches(SFTTrainer)):
        def weights_of(self, inputs: Mapping[str, Any]) -> dict[str, float]:
            rows = float(inputs[N_ROWS][0])
            return {"rows": rows, "tokens": float((inputs["labels"][:, 1:] != IGNORED).sum()) if rows else 0.0}

        def mean_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
            return {"tokens": SFTTrainer.compute_loss(self, model, inputs)}, {
                "entropy": "tokens",
                "mean_token_accuracy": "tokens",
            }

    return TokenSFTTrainer
