"""Checkpoints: folders that transformers and vLLM load, each with a row that says what made it."""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..base.config import Section
from ..base.errors import ConfigError, RollhouseError, StoreNotFound
from ..policies.models import model_folder, weights_hash
from ..store.appending import insert_if_absent
from ..store.ids import hash_id
from ..store.lance_store import quote
from ..store.run_settings import refuse_other_config
from ..store.runs import get_run
from .identity import run_identity
from .retention import best_first
from .tiny import base_policy

if TYPE_CHECKING:
    from ..store.lance_store import LanceStore
    from ..store.runs import Run

MARK = "rollhouse.json"
"""File in a checkpoint's folder that says which run wrote it."""
TINY_BASE = "tiny-base"
"""Names the tiny base policy wherever a model is asked for."""


class CheckpointingConfig(Section):
    """Where checkpoints go and how often they are taken."""

    checkpoint_dir: Path | None = None
    """Checkpoints lie in `<checkpoint_dir>/<run>/step_N`; None is `checkpoints` in the store, and `results` here for a store elsewhere."""
    save_period: int | None = None
    """Optimizer steps between two checkpoints; None takes one, at the end."""
    metric_name: str | None = None
    """What makes a checkpoint good, as `val:accuracy` or `val/accuracy`; None is the newest."""
    higher_is_better: bool = True
    keep_top_k: int | None = Field(default=None, ge=1)
    """So many of the best stay on the disk, and the newest; None keeps all."""


def folder_of(store: "LanceStore", run_id: str, checkpoint_dir: Path | None) -> Path:
    """Where a run's checkpoints go, absolute; whether others lie there is not looked at."""
    local = Path(store.uri) / "checkpoints" if "://" not in store.uri else Path("results")
    return (checkpoint_dir or local).resolve() / run_id


def checkpoint_folder(run: "Run", checkpoint_dir: Path | None) -> Path:
    """`<checkpoint_dir>/<run_id>`, absolute. Raises ConfigError when checkpoints of another run lie there."""
    folder = folder_of(run.store, run.run_id, checkpoint_dir)
    mine = run_identity(run)
    for step in sorted(folder.glob("step_*")):
        mark = step / MARK
        if not mark.is_file() or json.loads(mark.read_text())["run"] != mine:
            raise ConfigError(
                f"{step} is not of run {run.run_id!r} in {run.store.uri}, and would be replaced.",
                "Give the run another name, or another checkpointing.checkpoint_dir.",
            )
    return folder


def save_checkpoint(
    store: "LanceStore",
    run: "Run",
    model: Any,
    tokenizer: Any,
    step: int,
    folder: Path | None = None,
    dataset: str | None = None,
    metrics: Mapping[str, float] | None = None,
    parent_hash: str | None = None,
) -> dict[str, Any]:
    """Writes `<folder>/<run_id>/step_N` and its row, and returns the row.

    The folder is written under another name and renamed, so that one called `step_N` is always whole. One that a
    former incarnation of the run left is replaced.

    Args:
        model: A transformers model; it is saved in the precision it has.
        tokenizer: Its tokenizer, with the chat template.
        step: Optimizer steps taken.
        folder: `checkpoint_dir` of the configuration.
        dataset: "NAME@VERSION" it was trained on.
        metrics: Its metrics, by name.
        parent_hash: weights_hash of the model the run started from.

    Raises ConfigError when checkpoints of another run lie there.
    """
    path = checkpoint_folder(run, folder) / f"step_{step}"
    checkpoint_id = f"{run.run_id}/step_{step}"
    unfinished = path.with_name(f"tmp_step_{step}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    (unfinished / MARK).write_text(json.dumps({"checkpoint": checkpoint_id, "run": run_identity(run)}))
    if path.exists():
        shutil.rmtree(path)
    unfinished.rename(path)
    row = {
        "row_id": hash_id(run.run_id, step, run.incarnation),
        "checkpoint_id": checkpoint_id,
        "run_id": run.run_id,
        "step": step,
        "incarnation": run.incarnation,
        "path": str(path),
        "weights_hash": weights_hash(path),
        "parent_hash": parent_hash,
        "dataset": dataset,
        "metrics": json.dumps(dict(metrics or {})),
        "created_at": datetime.now(UTC),
    }
    insert_if_absent(store, "checkpoints", [row])
    return row


def find_checkpoint(store: "LanceStore", name: str) -> dict[str, Any] | None:
    """The row of a checkpoint by its id (`RUN/step_N`), of a run's last one by the run's id or its best by `RUN/best`; None when there is none.

    The best is by `checkpointing.metric_name` of the run's own configuration.
    """
    if name.endswith("/best"):
        return _best(store, name.removesuffix("/best"))
    named = quote(name)
    rows: list[dict[str, Any]] = store.read(
        "checkpoints", filter=f"checkpoint_id = {named} or run_id = {named}"
    ).to_pylist()
    return max(rows, key=lambda row: (row["incarnation"], row["step"])) if rows else None


def _best(store: "LanceStore", run_id: str) -> dict[str, Any] | None:
    rows = store.read("checkpoints", filter=f"run_id = {quote(run_id)}").to_pylist()
    if not rows:
        return None
    settings = get_run(store, run_id)["config"].get("checkpointing") or {}
    ranked = best_first(rows, CheckpointingConfig.model_validate(settings))
    return next((row for row in ranked if Path(row["path"]).is_dir()), ranked[0])


def model_before(store: "LanceStore", run_id: str) -> Path:
    """The model a training run started from.

    Raises StoreNotFound for a run there is not, ConfigError when it saved nothing or that model is no longer what it was.
    """
    run = get_run(store, run_id)
    named = run["config"].get("policy", {}).get("model_name")
    if named is None or find_checkpoint(store, run_id) is None:
        raise ConfigError(
            f"Run {run_id!r} ({run['kind']}) has no model before and after it.", "Name a training run that saved one."
        )
    return starting_model(store, run)


def starting_model(store: "LanceStore", run: Mapping[str, Any]) -> Path:
    """The model that a training run (a row of get_run) started from, whether it saved one or not. Raises ConfigError when it is no longer what it was."""
    before, hashed = resolve_model(store, run["config"]["policy"]["model_name"]), run["config"]["model_hash"]
    if (found := weights_hash(before)) != hashed:
        raise ConfigError(
            f"{before} is no longer the model that run {run['run_id']!r} started from: its weights are {found}, not {hashed}.",
            "Put the old weights back, or name models by their folders.",
        )
    return before


def models_of(store: "LanceStore", run_id: str) -> tuple[Path, Path]:
    """The model a training run started from and its last checkpoint's folder. Raises as model_before and resolve_model."""
    return model_before(store, run_id), resolve_model(store, run_id)


def finished_before(
    store: "LanceStore",
    kind: str,
    name: str | None,
    model: type[Section],
    payload: dict[str, Any],
    free: tuple[str, ...] = (),
) -> dict[str, Any] | None:
    """The last checkpoint of the run of that name, if it finished with this configuration; None when there is something to train.

    `payload` and `free` as in refuse_other_config. Raises ConfigError when the run has another configuration and something came of it.
    """
    try:
        before = get_run(store, name) if name else None
    except StoreNotFound:
        return None
    if not name or before is None or before["kind"] != kind:  # start_run refuses a name of another kind
        return None
    if any(store.dataset(table).count_rows(f"run_id = {quote(name)}") for table in ("checkpoints", "rollouts")):
        refuse_other_config(store, name, model, payload, free)
    if before["status"] != "finished":
        return None
    row = find_checkpoint(store, str(before["summary"].get("checkpoint")))
    return row if row is not None and Path(row["path"]).is_dir() else None


def resolve_model(store: "LanceStore | None", name: str | Path) -> Path:
    """The folder of a model: a checkpoint's id, a run's id (its last checkpoint), `RUN/best`, a folder, `tiny-base`, or a name on the hub.

    Raises:
        ConfigError: It is none of these, or its folder is gone or holds other weights than the checkpoint's row says.
    """
    row = find_checkpoint(store, str(name)) if store is not None else None
    if row is not None:
        if not Path(row["path"]).is_dir():
            raise ConfigError(
                f"Checkpoint {row['checkpoint_id']} should lie in {row['path']}, which is not there.",
                "Put the folder back, or name another model.",
            )
        found = weights_hash(row["path"])
        if found != row["weights_hash"]:
            raise ConfigError(
                f"{row['path']} no longer holds checkpoint {row['checkpoint_id']}: its weights are {found}, not {row['weights_hash']}.",
                "Put the folder back, or name it by its path if these weights are wanted.",
            )
        return Path(row["path"])
    if str(name) == TINY_BASE and not Path(name).is_dir():
        return base_policy()
    try:
        return model_folder(name)
    except RollhouseError as error:
        message = error.message.rstrip(".")
        raise type(error)(f"{message}, and no checkpoint or run is called {str(name)!r}.", error.fix) from error
