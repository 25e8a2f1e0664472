"""Supervised fine-tuning on demonstrations: TRL's SFTTrainer fed with tokens and their loss mask."""

from pathlib import Path
from typing import Any

from pydantic import Field

from ..base.config import Section
from ..policies.models import need
from ..store.lance_store import LanceStore
from ..transform.materialize import iter_sft
from .lora import peft_config
from .offline import MakeTrainer, OnStep, Start, load_model, train_offline
from .offline_config import OfflineConfig, make_arguments, trl_arguments
from .row_files import write_rows
from .tokens import Tokenizing, TokenRow

IGNORED = -100
"""Label of a token that is not learned from."""
SFT_COLUMNS = ("input_ids", "labels")


class SftAlgorithm(Section):
    """How long and in what order."""

    max_num_epochs: float = Field(default=1, gt=0)
    max_num_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; None takes as many as the epochs have."""
    seed: int = 0


class SftConfig(OfflineConfig):
    """Everything an SFT run depends on."""

    sft: SftAlgorithm = Field(default_factory=SftAlgorithm)


def train_sft(store: LanceStore, config: SftConfig, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains on a dataset of demonstrations and returns the row of the last checkpoint.

    A run of that name that finished with the same configuration is not trained again: its checkpoint is returned.

    Raises:
        ConfigError: A model, dataset or setting that does not fit, or a run of that name with another configuration, found before
            training starts.
        TrainingError: The loss stopped being finite.
    """

    def prepare(start: Start, scratch: Path) -> tuple[dict[str, int], MakeTrainer]:
        tokens = Tokenizing(start.chat, config.policy.max_total_sequence_length, start.context)
        rows = ((each.task_id, sft_columns(tokens.row(each))) for each in iter_sft(store, start.dataset))
        train, validation = write_rows(rows, scratch, SFT_COLUMNS, config.validation.share)
        counts = tokens.check()

        def make_trainer(state: Path) -> Any:
            trl, algorithm = need("trl"), config.sft
            ours = trl_arguments(config, state, algorithm.max_num_steps, algorithm.max_num_epochs, algorithm.seed)
            return trl.SFTTrainer(
                model=load_model(start.folder),
                args=make_arguments(trl.SFTConfig, ours, config.trl),
                train_dataset=train,
                eval_dataset=validation,
                processing_class=start.chat.tokenizer,
                peft_config=peft_config(config.policy.lora),
            )

        return counts | {"validation": len(validation or ())}, make_trainer

    return train_offline(store, "sft", config, prepare, on_step)


def sft_columns(row: TokenRow) -> dict[str, list[int]]:
    """The row as TRL takes tokenised data: `input_ids`, and `labels` that ignore what the policy did not say."""
    learned = [token if bit else IGNORED for token, bit in zip(row.response_ids, row.mask, strict=True)]
    return {"input_ids": row.prompt_ids + row.response_ids, "labels": [IGNORED] * len(row.prompt_ids) + learned}
