"""How TRL's trainers are set up: their options, the device, and the processes that a launcher started."""

import os
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..base.packages import need
from .offline_config import OfflineConfig

# Options that follow from other settings: rows, checkpoints and metrics depend on them.
_OURS = {
    *("output_dir", "max_length", "truncation_mode", "save_strategy", "save_steps", "eval_strategy", "eval_steps"),
    *("report_to", "precompute_ref_log_probs", "resume_from_checkpoint", "load_best_model_at_end"),
}


def rank() -> int:
    """The number of this process, set by `torchrun` or `accelerate launch`; 0 without a launcher. Process 0 writes to the store."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes that train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_name(run: str | None) -> str | None:
    """The name of the run. Raises ConfigError when several processes train and none is given: they could not agree on one."""
    if run is None and world_size() > 1:
        raise ConfigError("A run of several processes needs a name.", "Name it with --run.")
    return run


def trl_arguments(
    config: OfflineConfig, output: Path, max_num_steps: int | None, max_num_epochs: float, seed: int
) -> dict[str, Any]:
    """The options of TRL's trainers that SFT and DPO share. TRL's own logging is off, and TRL saves only the state that an interrupted run resumes from.

    Args:
        output: Folder for that state.

    Raises:
        ConfigError: The global batch size is not a multiple of the micro batch size times the number of processes.
    """
    policy = config.policy
    accumulation, rest = divmod(policy.train_global_batch_size, policy.train_micro_batch_size * world_size())
    if rest:
        together = f" times {world_size()} processes" if world_size() > 1 else ""
        raise ConfigError(
            f"policy.train_global_batch_size={policy.train_global_batch_size} is not a multiple of policy.train_micro_batch_size={policy.train_micro_batch_size}{together}.",
            "Change one of the two.",
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
        "adam_epsilon": policy.optimizer.eps,
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
    """TRL's configuration of class `kind`, from our options and the user's. Raises ConfigError for an option that TRL does not know or accept."""
    settled = sorted(set(theirs) & _OURS)
    if settled:
        raise ConfigError(f"trl.{settled[0]} cannot be set.", "It follows from `policy`, `checkpointing` and `logger`.")
    if theirs.get("packing_strategy", "bfd") != "bfd":
        raise ConfigError(
            f"trl.packing_strategy={theirs['packing_strategy']} cuts rows in the middle, and wrapped rows attend to each other.",
            "Leave it out: `bfd` packs whole rows.",
        )
    if theirs.get("train_sampling_strategy", "random") not in ("random", "sequential"):
        raise ConfigError(
            f"trl.train_sampling_strategy={theirs['train_sampling_strategy']} is not supported.",
            "Use random or sequential.",
        )
    unknown = sorted(set(theirs) - set(kind.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"TRL's {kind.__name__} has no option {unknown[0]!r}.", "See TRL's documentation for its options."
        )
    try:
        return on_one_device(kind(**ours | theirs))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"TRL's {kind.__name__} does not accept the options: {error}.", "Correct them under `trl`."
        ) from error


def on_one_device(arguments: Any) -> Any:
    """Restricts the trainer to one GPU. It would copy the model to every visible GPU and multiply the batch size by their number."""
    _ = arguments.device  # makes transformers count the devices, which it does once
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
