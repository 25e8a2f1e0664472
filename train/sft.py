"""Supervised fine-tuning on demonstrations: TRL's SFTTrainer fed with tokens and their loss mask."""

from typing import Any

from pydantic import Field

from ..collect.chat import ChatFormat
from ..collect.models import need
from ..store.house import House
from ..transform.materialize import sft_rows
from ..transform.versions import get_dataset
from .offline import (
    OfflineConfig,
    OnStep,
    Section,
    load_model,
    make_arguments,
    starting_model,
    train_and_keep,
    trl_arguments,
)
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

    Raises:
        ConfigError: A model, dataset or setting that does not fit, found before training starts.
        TrainingError: The loss stopped being finite.
    """
    trl = need("trl")
    folder = starting_model(house, config.policy)
    dataset = get_dataset(house, config.dataset)
    chat = ChatFormat.of(folder)
    rows, counts = tokenize(sft_rows(house, dataset), chat, config.policy.max_total_sequence_length)

    def make_trainer(run_id: str) -> Any:
        algorithm = config.sft
        ours = trl_arguments(config, run_id, algorithm.max_num_steps, algorithm.max_num_epochs, algorithm.seed)
        return trl.SFTTrainer(
            model=load_model(folder),
            args=make_arguments(trl.SFTConfig, ours, config.trl),
            train_dataset=sft_dataset(rows),
            processing_class=chat.tokenizer,
        )

    return train_and_keep(house, "sft", config, dataset, folder, counts, make_trainer, on_step)


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
