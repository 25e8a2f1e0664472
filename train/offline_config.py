"""The settings that SFT and DPO share."""

from typing import Any, Literal

from pydantic import Field

from ..base.config import Section
from ..policies.config import ChatOptions
from .config import OptimizerConfig, TrainedPolicy, TrainingConfig


class OfflineOptimizer(OptimizerConfig):
    """AdamW and its learning rate, which falls to zero over the rest of the training unless it is constant."""

    scheduler: Literal["constant", "linear", "cosine"] = "linear"


class OfflinePolicy(TrainedPolicy):
    """The model and how TRL trains it."""

    max_total_sequence_length: int = Field(default=2048, ge=2)
    """Longest prompt and response together, in tokens. Longer rows are an error, or left out; they are not cut."""
    leave_out_too_long: bool = False
    """Leave out rows that are longer than max_total_sequence_length or the model's context, instead of refusing the dataset."""
    train_global_batch_size: int = Field(default=32, ge=1)
    """Dataset rows per optimizer step."""
    train_micro_batch_size: int = Field(default=4, ge=1)
    """Dataset rows per forward pass."""
    optimizer: OfflineOptimizer = Field(default_factory=OfflineOptimizer)
    chat: ChatOptions = Field(default_factory=ChatOptions)


class ValidationConfig(Section):
    """Rows that are held out of training to measure the loss."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the dataset's tasks. A task is chosen by the hash of its id, so all its rows are on one side in every dataset."""
    period: int | None = Field(default=None, ge=1)
    """Optimizer steps between two measurements; the loss is also measured with every checkpoint."""


class OfflineConfig(TrainingConfig):
    """The settings of an offline run besides its algorithm."""

    policy: OfflinePolicy
    trainer: Literal["trl", "learner"] = "trl"
    """`trl` trains with TRL; `learner` on the learner of GRPO, without TRL, in one process."""
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    trl: dict[str, Any] = Field(default_factory=dict)
    """Further options of TRL's configuration class, by TRL's names."""
