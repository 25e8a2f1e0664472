"""Settings that several trainers share. Key names follow NeMo RL where it has the setting."""

from pathlib import Path

from pydantic import Field

from ..base.config import Section


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021), trained instead of every weight."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get an adapter; `all-linear` is every linear layer except the output layer."""


class CheckpointingConfig(Section):
    """Where checkpoints are written and how often."""

    checkpoint_dir: Path | None = None
    """Checkpoints are written to `<checkpoint_dir>/<run>/step_N`. None is `checkpoints` in a local store, else `results` in the current folder."""
    save_period: int | None = None
    """Optimizer steps between two checkpoints. None saves one, at the end."""
    metric_name: str | None = None
    """Metric that ranks checkpoints, as `val:accuracy` or `val/accuracy`. None ranks the newest first."""
    higher_is_better: bool = True
    keep_top_k: int | None = Field(default=None, ge=1)
    """Number of best checkpoints to keep on disk, besides the newest. None keeps all."""


class WandbConfig(Section):
    """How a run appears in Weights & Biases."""

    project: str = "rollhouse"
    name: str | None = None
    """Display name; None is the run's id."""
    timeout_s: float = Field(default=30, gt=0)
    """Seconds to wait for the server when a run starts and when it ends; a step never waits. After that the files are kept for `wandb sync`."""


class LoggerConfig(Section):
    """What is logged besides the store."""

    log_dir: Path = Path("logs")
    """Folder for the files of Weights & Biases."""
    wandb_enabled: bool = False
    wandb: WandbConfig = Field(default_factory=WandbConfig)
