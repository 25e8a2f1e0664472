"""What an offline run depends on, and how TRL's trainers are told."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..base.config import Section
from ..base.errors import ConfigError
from ..policies.models import need
from .checkpoints import CheckpointingConfig
from .lora import LoraConfig
from .processes import world_size
from .tracking import LoggerConfig

# What rows, checkpoints and metrics rely on.
_OURS = {
    *("output_dir", "max_length", "truncation_mode", "save_strategy", "save_steps", "eval_strategy", "eval_steps"),
    *("report_to", "precompute_ref_log_probs", "resume_from_checkpoint", "load_best_model_at_end"),
}


class OptimizerConfig(Section):
    """AdamW and its learning rate over time."""

    lr: float = Field(default=1e-5, gt=0)
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    scheduler: Literal["constant", "linear", "cosine"] = "linear"
    """How the rate falls to zero after warm-up; `constant` does not."""
    warmup_steps: int = Field(default=0, ge=0)


class PolicyConfig(Section):
    """The model and how it is trained."""

    model_name: str
    """A checkpoint's id, a run's id, a model folder or a name on the hub."""
    max_total_sequence_length: int = Field(default=2048, ge=2)
    """Prompt and response in tokens; longer rows are an error, not cut."""
    train_global_batch_size: int = Field(default=32, ge=1)
    """Dataset rows an optimizer step learns from."""
    train_micro_batch_size: int = Field(default=4, ge=1)
    """Dataset rows a forward pass holds."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    activation_checkpointing: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    """Train adapters in place of every weight; checkpoints hold the merged model."""


class ValidationConfig(Section):
    """Rows kept out of training to measure the loss on."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Of the dataset's tasks, chosen by the hash of their id: all rows of a task are on one side, whatever else is in the dataset."""
    period: int | None = Field(default=None, ge=1)
    """Optimizer steps between two measurements; one is also taken with every checkpoint."""


class OfflineConfig(Section):
    """What an offline run depends on besides its algorithm."""

    run: str | None = None
    """Name of the run."""
    dataset: str
    """NAME, or NAME@VERSION."""
    policy: PolicyConfig
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    checkpointing: CheckpointingConfig = Field(default_factory=CheckpointingConfig)
    logger: LoggerConfig = Field(default_factory=LoggerConfig)
    trl: dict[str, Any] = Field(default_factory=dict)
    """Further options of TRL's own configuration class, by TRL's names."""


def trl_arguments(
    config: OfflineConfig, output: Path, max_num_steps: int | None, max_num_epochs: float, seed: int
) -> dict[str, Any]:
    """The options of TRL's trainers that both algorithms set. Logging is ours, so TRL's is off; what it saves is only what a run cut short goes on from.

    Args:
        output: Where that is saved.
    """
    policy = config.policy
    accumulation, rest = divmod(policy.train_global_batch_size, policy.train_micro_batch_size * world_size())
    if rest:
        together = f", {world_size()} processes of them" if world_size() > 1 else ""
        raise ConfigError(
            f"policy.train_global_batch_size={policy.train_global_batch_size} is no multiple of policy.train_micro_batch_size={policy.train_micro_batch_size}{together}.",
            "Make it one.",
        )
    on_cpu = policy.device == "cpu" or (policy.device == "auto" and not need("torch").cuda.is_available())
    return {
        "output_dir": str(output),
        "per_device_train_batch_size": policy.train_micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "max_steps": max_num_steps or -1,
        "num_train_epochs": max_num_epochs,
        "max_length": policy.max_total_sequence_length,
        "max_grad_norm": policy.max_grad_norm,
        "learning_rate": policy.optimizer.lr,
        "weight_decay": policy.optimizer.weight_decay,
        "adam_beta1": policy.optimizer.betas[0],
        "adam_beta2": policy.optimizer.betas[1],
        "lr_scheduler_type": policy.optimizer.scheduler,
        "warmup_steps": policy.optimizer.warmup_steps,
        "activation_checkpointing": policy.activation_checkpointing,
        "use_cpu": on_cpu,
        "bf16": not on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "seed": seed,
        "data_seed": seed,
        "per_device_eval_batch_size": policy.train_micro_batch_size,
        "eval_strategy": "steps" if config.validation.share and config.validation.period else "no",
        "eval_steps": config.validation.period,
        "save_strategy": "steps" if config.checkpointing.save_period else "no",
        "save_steps": config.checkpointing.save_period or 500,
        "save_total_limit": 1,
        "report_to": "none",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }


def make_arguments(kind: type, ours: dict[str, Any], theirs: dict[str, Any]) -> Any:
    """TRL's configuration of class `kind`. Raises ConfigError for an option it does not know or refuses."""
    settled = sorted(set(theirs) & _OURS)
    if settled:
        raise ConfigError(f"trl.{settled[0]} is not free.", "It follows from `policy`, `checkpointing` and `logger`.")
    unknown = sorted(set(theirs) - set(kind.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"TRL's {kind.__name__} has no option {unknown[0]!r}.", "See TRL's documentation for its options."
        )
    try:
        return on_one_device(kind(**ours | theirs))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"TRL's {kind.__name__} refuses the options: {error}.", "Correct them under `trl`."
        ) from error


def on_one_device(arguments: Any) -> Any:
    """Pins the trainer to one GPU: it would copy the model to all it sees and multiply the batch by their number."""
    _ = arguments.device  # counts the devices, once
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
