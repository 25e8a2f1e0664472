"""The settings that SFT and DPO share."""

from typing import Any, Literal

from pydantic import Field

from ..base.config import Section
from .config import CheckpointingConfig, LoggerConfig, LoraConfig


class OptimizerConfig(Section):
    """AdamW and its learning rate over time."""

    lr: float = Field(default=1e-5, gt=0)
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    scheduler: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls to zero after the warm-up; `constant` does not fall."""
    warmup_steps: int = Field(default=0, ge=0)


class PolicyConfig(Section):
    """The model and how it is trained."""

    model_name: str
    """A checkpoint, a run (its last checkpoint), a model folder or a name on the hub."""
    max_total_sequence_length: int = Field(default=2048, ge=2)
    """Longest row, prompt and response, in tokens. Longer rows are an error; they are not cut."""
    train_global_batch_size: int = Field(default=32, ge=1)
    """Dataset rows per optimizer step."""
    train_micro_batch_size: int = Field(default=4, ge=1)
    """Dataset rows per forward pass."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    activation_checkpointing: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of every weight; checkpoints hold the merged model. None trains every weight."""


class ValidationConfig(Section):
    """Rows that are held out of training to measure the loss."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the dataset's tasks. A task is chosen by the hash of its id, so all its rows are on one side in every dataset."""
    period: int | None = Field(default=None, ge=1)
    """Optimizer steps between two measurements; the loss is also measured with every checkpoint."""


class OfflineConfig(Section):
    """The settings of an offline run besides its algorithm."""

    run: str | None = None
    """Name of the run."""
    dataset: str
    """The training set: NAME (its latest version) or NAME@VERSION."""
    policy: PolicyConfig
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    checkpointing: CheckpointingConfig = Field(default_factory=CheckpointingConfig)
    logger: LoggerConfig = Field(default_factory=LoggerConfig)
    trl: dict[str, Any] = Field(default_factory=dict)
    """Further options of TRL's configuration class, by TRL's names."""
