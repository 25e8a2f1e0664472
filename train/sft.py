"""Supervised fine-tuning on demonstrations: TRL's SFTTrainer fed with tokens and their loss mask."""

from pathlib import Path
from typing import Any

from pydantic import Field

from ..collect.models import need
from ..store.house import House
from ..transform.materialize import sft_rows
from .lora import peft_config
from .offline import MakeTrainer, OnStep, Start, load_model, split_by_task, train_offline
from .offline_config import OfflineConfig, make_arguments, trl_arguments
from .section import Section
from .tokens import TokenRow, tokenize

IGNORED = -100
"""Label of a token that is not learned from."""


class SftAlgorithm(Section):
    """How long and in what order."""

    max_num_epochs: float = Field(default=1, gt=0)
    max_num_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; None takes as many as the epochs have."""
    seed: int = 0


class SftConfig(OfflineConfig):
    """Everything an SFT run depends on."""

    sft: SftAlgorithm = Field(default_factory=SftAlgorithm)


def train_sft(house: House, config: SftConfig, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains on a dataset of demonstrations and returns the row of the last checkpoint.

    A run of that name that finished with the same configuration is not trained again: its checkpoint is returned.

    Raises:
        ConfigError: A model, dataset or setting that does not fit, or a run of that name with another configuration, found before
            training starts.
        TrainingError: The loss stopped being finite.
    """

    def prepare(start: Start) -> tuple[dict[str, int], MakeTrainer]:
        given = list(sft_rows(house, start.dataset))
        rows, counts = tokenize(given, start.chat, config.policy.max_total_sequence_length, start.context)
        train, validation = split_by_task([row.task_id for row in given], config.validation.share)

        def make_trainer(state: Path) -> Any:
            trl, algorithm = need("trl"), config.sft
            ours = trl_arguments(config, state, algorithm.max_num_steps, algorithm.max_num_epochs, algorithm.seed)
            return trl.SFTTrainer(
                model=load_model(start.folder),
                args=make_arguments(trl.SFTConfig, ours, config.trl),
                train_dataset=sft_dataset([rows[at] for at in train]),
                eval_dataset=sft_dataset([rows[at] for at in validation]) if validation else None,
                processing_class=start.chat.tokenizer,
                peft_config=peft_config(config.policy.lora),
            )

        return counts | {"validation": len(validation)}, make_trainer

    return train_offline(house, "sft", config, prepare, on_step)


def sft_dataset(rows: list[TokenRow]) -> Any:
    """The rows as TRL takes tokenised data: `input_ids`, and `labels` that ignore what the policy did not say."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [row.prompt_ids + row.response_ids for row in rows],
            "labels": [
                [IGNORED] * len(row.prompt_ids)
                + [token if bit else IGNORED for token, bit in zip(row.response_ids, row.mask, strict=True)]
                for row in rows
            ],
        }
    )
