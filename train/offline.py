"""What SFT and DPO share: the configuration, TRL's arguments, and the way from a dataset and a model to a checkpoint."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..collect.chat import ChatFormat
from ..collect.models import check_model_folder, need, weights_hash
from ..store.errors import ConfigError, TrainingError
from ..store.house import House
from ..store.runs import Run, start_run
from ..transform.versions import DatasetVersion, get_dataset
from .checkpoints import CheckpointingConfig, checkpoint_folder, finished_before, resolve_model, save_checkpoint
from .section import Section
from .tracking import LoggerConfig, Tracker

# What rows, checkpoints and metrics rely on.
_OURS = {"output_dir", "max_length", "truncation_mode", "save_strategy", "report_to", "precompute_ref_log_probs"}

# What may differ when a run of that name is there already; the weights of model_name may not.
_MAY_CHANGE = ("run", "policy.model_name", "checkpointing", "logger")

OnStep = Callable[[int, int, str], None]
"""Gets optimizer steps done, steps in all, and a note for people."""


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


class OfflineConfig(Section):
    """What an offline run depends on besides its algorithm."""

    run: str | None = None
    """Name of the run."""
    dataset: str
    """NAME, or NAME@VERSION."""
    policy: PolicyConfig
    checkpointing: CheckpointingConfig = Field(default_factory=CheckpointingConfig)
    logger: LoggerConfig = Field(default_factory=LoggerConfig)
    trl: dict[str, Any] = Field(default_factory=dict)
    """Further options of TRL's own configuration class, by TRL's names."""


def load_model(folder: Path) -> Any:
    """The model in float32: master weights; on a GPU the trainer computes in bfloat16."""
    torch = need("torch")
    return need("transformers").AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def trl_arguments(
    config: OfflineConfig, output: Path, max_num_steps: int | None, max_num_epochs: float, seed: int
) -> dict[str, Any]:
    """The options of TRL's trainers that both algorithms set. Saving and logging are ours, so TRL's are off."""
    policy = config.policy
    accumulation, rest = divmod(policy.train_global_batch_size, policy.train_micro_batch_size)
    if rest:
        raise ConfigError(
            f"policy.train_global_batch_size={policy.train_global_batch_size} is no multiple of policy.train_micro_batch_size={policy.train_micro_batch_size}.",
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
        "save_strategy": "no",
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


@dataclass(frozen=True)
class Start:
    """What training starts from."""

    folder: Path
    dataset: DatasetVersion
    chat: ChatFormat


MakeTrainer = Callable[[Path], Any]
"""From the run's folder of checkpoints to TRL's trainer."""


def train_offline(
    house: House,
    kind: str,
    config: OfflineConfig,
    prepare: Callable[[Start], tuple[dict[str, int], MakeTrainer]],
    on_step: OnStep | None,
) -> dict[str, Any]:
    """Goes from dataset and model to a checkpoint, under a run of its own, and returns the last checkpoint's row.

    A run of that name that finished with the same configuration is left as it is, and its checkpoint returned.

    Args:
        prepare: Gives how the rows came about (kept in the run's summary) and the trainer.
    """
    need("trl")
    folder = check_model_folder(resolve_model(house, config.policy.model_name))
    dataset, parent = get_dataset(house, config.dataset), weights_hash(folder)
    payload = config.model_dump(mode="json") | {"dataset": dataset.label, "model_hash": parent}
    before = finished_before(house, kind, config.run, payload, _MAY_CHANGE)
    if before is not None:
        if on_step is not None:
            on_step(before["step"], before["step"], "was trained before; this is its checkpoint")
        return before
    rows, make_trainer = prepare(Start(folder, dataset, ChatFormat.of(folder)))
    with start_run(house, kind, config.run, payload) as run, Tracker(run, config.logger, payload) as tracker, quiet():
        place = config.checkpointing.checkpoint_dir
        trainer = make_trainer(checkpoint_folder(run, place))

        def keep(step: int) -> dict[str, Any]:
            numbers = last_metrics(trainer)
            model, tokenizer = trainer.model, trainer.processing_class
            return save_checkpoint(house, run, model, tokenizer, step, place, dataset.label, numbers, parent)

        watch(trainer, tracker, keep, config.checkpointing.save_period, on_step)
        trainer.train()
        checkpoint = keep(trainer.state.global_step)
        _finish(run, checkpoint, trainer, rows)
    return checkpoint


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars but ours, and no deprecation notes that the libraries write to each other."""
    import warnings

    import datasets
    from transformers.utils import logging

    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        datasets.enable_progress_bars()
        logging.enable_progress_bar()
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def watch(
    trainer: Any, tracker: Tracker, keep: Callable[[int], Any], save_period: int | None, on_step: OnStep | None
) -> None:
    """Sends the trainer's numbers to the tracker, takes checkpoints on the way, and stops at a loss that is not finite."""
    from transformers import PrinterCallback, TrainerCallback

    def due(state: Any) -> bool:
        return bool(save_period) and state.global_step % save_period == 0 and state.global_step < state.max_steps

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            values = metrics_of(logs or {})
            if not math.isfinite(values.get("train/loss", 0.0)):
                raise TrainingError(f"The loss of step {state.global_step} is not finite.", "Lower the learning rate.")
            tracker.log(state.global_step, values)
            if on_step is not None and "train/loss" in values:
                on_step(state.global_step, state.max_steps, f"loss {values['train/loss']:.4f}")
            if due(state) and "train/loss" in values:
                keep(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # A checkpoint is taken where the step's numbers are known: when they are logged.
            control.should_log = control.should_log or due(state)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch())


def metrics_of(logs: dict[str, Any]) -> dict[str, float]:
    """TRL's numbers under our names: `loss` is `train/loss`, `eval_loss` is `val/loss`. Its closing summary gives none."""
    return {
        f"val/{name[5:]}" if name.startswith("eval_") else f"train/{name}": float(value)
        for name, value in logs.items()
        if isinstance(value, (int, float)) and not name.startswith("train_") and name != "total_flos"
    }


def last_metrics(trainer: Any) -> dict[str, float]:
    """The numbers of the trainer's last step."""
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return metrics_of({name: value for name, value in history[-1].items() if name != "step"}) if history else {}


def _finish(run: Run, checkpoint: dict[str, Any], trainer: Any, rows: dict[str, int]) -> None:
    run.finish(
        {
            "checkpoint": checkpoint["checkpoint_id"],
            "path": checkpoint["path"],
            "weights_hash": checkpoint["weights_hash"],
            "steps": trainer.state.global_step,
            "rows": rows,
            **last_metrics(trainer),
        }
    )
