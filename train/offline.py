"""What SFT and DPO share: training from a dataset and a model to a checkpoint, and resuming an interrupted run."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, TrainingError
from ..base.packages import need
from ..policies.chat import ChatFormat
from ..policies.models import check_model_folder, check_text_model, context_length, weights_hash
from ..store.checkpoint_paths import MARK, has_mark, remove_marked, stored_path
from ..store.lance_store import LanceStore
from ..store.run_settings import refuse_other_config, run_payload
from ..store.runs import Run, start_run
from ..transform.versions import DatasetVersion, get_dataset
from .checkpoints import checkpoint_folder, finished_before, folder_of, keep_best, resolve_model, save_checkpoint
from .lora import merged
from .offline_config import OfflineConfig, OfflinePolicy
from .runs import run_identity
from .saved import CheckedModel, refuse_infinite
from .tokens import Tokenizing
from .tracking import Tracker
from .trl_setup import rank, require_name

OnStep = Callable[[int, int, str], None]
"""Called with optimizer steps done, total steps, and a note to show."""


def load_model(folder: Path) -> Any:
    """The model with float32 master weights; on a GPU the trainer computes in bfloat16.

    Raises ConfigError when the folder lacks weights, which would be random.
    """
    torch = need("torch")
    causal = need("transformers").AutoModelForCausalLM
    model, found = causal.from_pretrained(str(folder), dtype=torch.float32, output_loading_info=True)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ConfigError(
            f"{folder} lacks {len(missing)} of {len(model.state_dict())} tensors of {type(model).__name__}, the first {missing[0]}.",
            "Name a complete model folder, of an architecture that transformers loads.",
        )
    return model


@dataclass(frozen=True)
class Start:
    """What training starts from: the folder of the model, the dataset version and the chat format."""

    folder: Path
    dataset: DatasetVersion
    chat: ChatFormat

    @property
    def context(self) -> int | None:
        """The model's context length in tokens; None when its config states none."""
        return context_length(self.folder)

    def tokenizing(self, policy: OfflinePolicy) -> Tokenizing:
        """What turns the dataset's trajectories into tokens."""
        return Tokenizing(self.chat, policy.max_total_sequence_length, self.context, policy.leave_out_too_long)


def open_start(store: LanceStore, config: OfflineConfig) -> Start:
    """What a run of this configuration starts from. Raises ConfigError and StoreNotFound."""
    folder = check_model_folder(resolve_model(store, config.policy.model_name))
    check_text_model(folder)
    return Start(folder, get_dataset(store, config.dataset), ChatFormat.of(folder, config.policy.chat))


MakeTrainer = Callable[[Path], Any]
"""Makes TRL's trainer, given the folder for the state that an interrupted run resumes from."""
Prepare = Callable[[Start, Path], tuple[dict[str, Any], MakeTrainer]]
"""Writes the rows into a folder. Returns how they were tokenised, and what makes the trainer."""


def train_offline(
    store: LanceStore,
    kind: str,
    config: OfflineConfig,
    prepare: Prepare,
    on_step: OnStep | None,
) -> dict[str, Any]:
    """Trains a model on a dataset in a run, and returns the row of the last checkpoint.

    A run of that name that finished with the same configuration is not trained again: its checkpoint is returned. An interrupted
    run resumes from its last saved state and reaches the same weights.

    When a launcher started several processes, process 0 writes the run and the others train with it and return {}.

    Args:
        prepare: Given what training starts from and a folder that exists until training ends, writes the rows into the folder and
            returns how they were tokenised (for the run's summary) and a function that makes the trainer.
    """
    need("trl")
    require_name(config.run)
    start = open_start(store, config)
    folder, dataset, parent = start.folder, start.dataset, weights_hash(start.folder)
    labelled = config.model_copy(update={"dataset": dataset.label})
    payload = run_payload(labelled, model_hash=parent)
    before = finished_before(store, kind, config.run, type(config), payload)
    if before is not None:
        if on_step is not None:
            on_step(before["step"], before["step"], "already trained; this is its checkpoint")
        return before
    with tempfile.TemporaryDirectory(prefix="rollhouse-rows-") as scratch:
        rows, make_trainer = prepare(start, Path(scratch))
        if rank() > 0:
            state = folder_of(store, str(config.run), config.checkpointing.checkpoint_dir) / "state"
            follow(make_trainer, state, config)
            return {}
        return _train(store, kind, config, payload, folder, rows, make_trainer, on_step)


def _train(
    store: LanceStore,
    kind: str,
    config: OfflineConfig,
    payload: dict[str, Any],
    folder: Path,
    rows: dict[str, Any],
    make_trainer: MakeTrainer,
    on_step: OnStep | None,
) -> dict[str, Any]:
    """The part of process 0: the run, its metrics and its checkpoints."""
    from .weights import TrainedModel

    dataset, parent = payload["dataset"], payload["model_hash"]
    with start_run(store, kind, config.run, payload) as run, Tracker(run, config.logger, payload) as tracker, quiet():
        place = config.checkpointing.checkpoint_dir
        state = checkpoint_folder(run, place) / "state"
        interrupted_at = last_state(state)
        if interrupted_at is not None:
            refuse_other_config(store, run.run_id, type(config), payload)
        _mark_state(state, run_identity(run))
        trainer = make_trainer(state)

        def keep(step: int) -> dict[str, Any]:
            numbers, tokenizer = last_metrics(trainer), trainer.processing_class
            refuse_infinite(trainer.model, step)
            lora = config.policy.lora
            adapted = trainer.model.get_base_model() if lora is not None and lora.save_adapter else None
            saving = TrainedModel(merged(trainer.model), folder, adapted)
            model = CheckedModel(trainer.model, saving, first_row(trainer))
            row = save_checkpoint(store, run, model, tokenizer, step, place, dataset, numbers, parent)
            keep_best(store, run.run_id, config.checkpointing)
            return row

        watch(trainer, tracker, keep, config, on_step)
        run_trainer(trainer, interrupted_at, config)
        checkpoint = keep(trainer.state.global_step)
        _finish(run, checkpoint, trainer, rows)
        remove_marked(state, state.parent, run_identity(run))  # a finished run is not resumed
    return checkpoint


def _mark_state(state: Path, identity: str) -> None:
    """Makes the folder of a run's state and marks it. Raises ConfigError for one of another run; earlier versions wrote no mark."""
    if (state / MARK).exists() and not has_mark(state, identity):
        raise ConfigError(
            f"{state} belongs to another run and would be replaced.",
            "Name the run differently, or set another checkpointing.checkpoint_dir.",
        )
    state.mkdir(parents=True, exist_ok=True)
    (state / MARK).write_text(json.dumps({"run": identity}))


def first_row(trainer: Any) -> list[int]:
    """Token ids of a row that is trained on."""
    row = trainer.train_dataset[0]
    return list(row["input_ids"] if "input_ids" in row else row["chosen_ids"])


def follow(make_trainer: MakeTrainer, state: Path, config: OfflineConfig) -> None:
    """Trains together with process 0, which writes everything."""
    interrupted_at = last_state(state)
    with quiet():
        run_trainer(make_trainer(state), interrupted_at, config)


def run_trainer(trainer: Any, interrupted_at: Path | None, config: OfflineConfig) -> None:
    """Trains to the end and evaluates there. All processes do this, because evaluation needs all of them."""
    from transformers import PrinterCallback, TrainerCallback

    class Measure(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # Log and evaluate before a checkpoint is saved, so that the checkpoint has the metrics of its step.
            due = is_due(state, config)
            control.should_log = control.should_log or due
            control.should_evaluate = control.should_evaluate or (due and config.validation.share > 0)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Measure())
    trainer.train(resume_from_checkpoint=None if interrupted_at is None else str(interrupted_at))
    if config.validation.share and not measured(trainer):
        trainer.evaluate()


def is_due(state: Any, config: OfflineConfig) -> bool:
    """Whether an intermediate checkpoint is due at this step. The checkpoint of the last step is always saved, by _train."""
    period = config.checkpointing.save_period
    return bool(period) and state.global_step % period == 0 and state.global_step < state.max_steps


def last_state(folder: Path) -> Path | None:
    """The newest complete state that the trainer of an interrupted run left; None when there is none."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


@contextmanager
def quiet() -> Iterator[None]:
    """Turns off the libraries' progress bars and deprecation warnings."""
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
    trainer: Any, tracker: Tracker, keep: Callable[[int], Any], config: OfflineConfig, on_step: OnStep | None
) -> None:
    """Adds a callback that logs metrics, saves intermediate checkpoints, and raises TrainingError for a loss that is not finite."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            values = metrics_of(logs or {})
            if not math.isfinite(values.get("train/loss", 0.0)):
                raise TrainingError(f"The loss of step {state.global_step} is not finite.", "Lower the learning rate.")
            tracker.log(state.global_step, values)
            if on_step is not None and "train/loss" in values:
                on_step(state.global_step, state.max_steps, f"loss {values['train/loss']:.4f}")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if is_due(state, config):
                tracker.flush()
                keep(state.global_step)

    trainer.add_callback(Watch())


def metrics_of(logs: dict[str, Any]) -> dict[str, float]:
    """TRL's metrics under our names: `loss` is `train/loss`, `eval_loss` is `val/loss`. TRL's closing summary is left out."""
    return {
        f"val/{name[5:]}" if name.startswith("eval_") else f"train/{name}": float(value)
        for name, value in logs.items()
        if isinstance(value, (int, float)) and not name.startswith("train_") and name != "total_flos"
    }


def last_metrics(trainer: Any) -> dict[str, float]:
    """The training metrics of the trainer's last step, and the validation metrics if they were measured at that step."""
    history = trainer.state.log_history
    numbers: dict[str, float] = {}
    for entry in history:
        if entry.get("step") == trainer.state.global_step and ("loss" in entry or "eval_loss" in entry):
            numbers |= metrics_of({name: value for name, value in entry.items() if name != "step"})
    return numbers


def measured(trainer: Any) -> bool:
    """Whether the validation loss was measured at the last step."""
    return "val/loss" in last_metrics(trainer)


def _finish(run: Run, checkpoint: dict[str, Any], trainer: Any, rows: dict[str, Any]) -> None:
    run.finish(
        {
            "checkpoint": checkpoint["checkpoint_id"],
            "path": stored_path(run.store, Path(checkpoint["path"])),
            "weights_hash": checkpoint["weights_hash"],
            "steps": trainer.state.global_step,
            "rows": rows,
            **last_metrics(trainer),
        }
    )
