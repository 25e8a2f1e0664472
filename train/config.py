"""Settings that all trainers share. Key names follow NeMo RL where it has the setting."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..base.config import FREE, Flag, RunSettings, Section


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021), trained instead of every weight."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get an adapter; `all-linear` is every linear layer that an adapter fits, see docs/learner.md."""
    save_adapter: Annotated[bool, FREE] = True
    """Write the adapters alone too, in peft's layout, to the folder `adapter` of each checkpoint, for `rollhouse serve --adapter`."""


class OptimizerConfig(Section):
    """AdamW and its learning rate."""

    lr: Annotated[float, Flag("Training")] = Field(default=1e-5, gt=0)
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    scheduler: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up."""


class TrainedPolicy(Section):
    """The model and how it is trained."""

    model_name: Annotated[str, Flag("Policy", "model", "MODEL"), FREE]
    """Model to start from: a checkpoint, a run (its last checkpoint), a model folder or a name on the hub."""
    max_total_sequence_length: int = Field(default=1024, ge=2)
    """Longest prompt and response together, in tokens."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more time for much less memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model is trained; `auto` is a GPU if there is one."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of every weight; checkpoints hold the merged model, and the adapters beside it. Default: every weight."""


class CheckpointingConfig(Section):
    """Where checkpoints are written and how often."""

    checkpoint_dir: Path | None = None
    """Checkpoints are written to `<checkpoint_dir>/<run>/step_N`. Default: `checkpoints` in a local store, else `results` in the current folder."""
    save_period: int | None = None
    """Optimizer steps between two checkpoints. Default: one checkpoint, at the end."""
    metric_name: str | None = None
    """Metric that ranks checkpoints, as `val:accuracy` or `val/accuracy`. Default: the newest is the best."""
    higher_is_better: bool = True
    """Whether a higher value of the metric is better."""
    keep_top_k: int | None = Field(default=None, ge=1)
    """Number of best checkpoints to keep on disk, besides the newest. Default: all."""


class WandbConfig(Section):
    """How a run appears in Weights & Biases."""

    project: str = "rollhouse"
    name: str | None = None
    """Display name. Default: the run's id."""
    timeout_s: float = Field(default=30, gt=0)
    """Seconds to wait for the server when a run starts and when it ends; a step never waits. After that the files are kept for `wandb sync`."""


class LoggerConfig(Section):
    """What is logged besides the store."""

    log_dir: Path = Path("logs")
    """Folder for the files of Weights & Biases."""
    wandb_enabled: bool = False
    wandb: WandbConfig = Field(default_factory=WandbConfig)


class TrainingConfig(RunSettings):
    """The settings of a run that trains on a dataset version."""

    dataset: Annotated[str, Flag("Input", metavar="NAME[@V]")]
    """Dataset version to train on; NAME is the latest version."""
    policy: TrainedPolicy
    checkpointing: Annotated[CheckpointingConfig, FREE] = Field(default_factory=CheckpointingConfig)
    logger: Annotated[LoggerConfig, FREE] = Field(default_factory=LoggerConfig)

    @model_validator(mode="before")
    @classmethod
    def _with_policy(cls, values: Any) -> Any:
        # A missing section is reported as its missing settings.
        return {"policy": {}, **values} if isinstance(values, dict) else values
