"""Checkpoints: folders that transformers and vLLM load, each with a row that says what made it."""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ..collect.models import weights_hash
from ..store.errors import ConfigError
from ..store.house import quote
from ..store.ids import hash_id
from .tiny import base_policy

if TYPE_CHECKING:
    from ..store.house import House
    from ..store.runs import Run

TINY_BASE = "tiny-base"
"""Names the tiny base policy wherever a model is asked for."""


class CheckpointingConfig(BaseModel):
    """Where checkpoints go and how often they are taken."""

    model_config = ConfigDict(extra="forbid")

    checkpoint_dir: Path = Path("results")
    """Checkpoints lie in `<checkpoint_dir>/<run>/step_N`."""
    save_period: int | None = None
    """Optimizer steps between two checkpoints; None takes one, at the end."""


def save_checkpoint(
    house: "House",
    run: "Run",
    model: Any,
    tokenizer: Any,
    step: int,
    folder: Path,
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
    """
    path = (folder / run.run_id / f"step_{step}").resolve()
    unfinished = path.with_name(f"tmp_step_{step}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    if path.exists():
        shutil.rmtree(path)
    unfinished.rename(path)
    row = {
        "row_id": hash_id(run.run_id, step, run.incarnation),
        "checkpoint_id": f"{run.run_id}/step_{step}",
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
    house.insert_if_absent("checkpoints", [row])
    return row


def find_checkpoint(house: "House", name: str) -> dict[str, Any] | None:
    """The row of a checkpoint by its id (`RUN/step_N`), or the last one of a run by the run's id; None when there is none."""
    named = quote(name)
    rows: list[dict[str, Any]] = house.read(
        "checkpoints", filter=f"checkpoint_id = {named} or run_id = {named}"
    ).to_pylist()
    return max(rows, key=lambda row: (row["incarnation"], row["step"])) if rows else None


def resolve_model(house: "House | None", name: str | Path) -> Path:
    """The folder of a model: a checkpoint's id, a run's id (its last checkpoint), a folder, `tiny-base`, or a name on the hub.

    Raises:
        ConfigError: It is none of these, or its folder is gone.
    """
    row = find_checkpoint(house, str(name)) if house is not None else None
    if row is not None:
        if not Path(row["path"]).is_dir():
            raise ConfigError(
                f"Checkpoint {row['checkpoint_id']} should lie in {row['path']}, which is not there.",
                "Put the folder back, or name another model.",
            )
        return Path(row["path"])
    if Path(name).is_dir():
        return Path(name)
    if str(name) == TINY_BASE:
        return base_policy()
    return _from_hub(str(name))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    # The hub client raises its own errors, ValueError for a bad name and OSError when it is offline.
    except Exception as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ConfigError(
            f"There is no model {name!r}: no checkpoint, run or folder of that name, and the hub did not give it ({reason}).",
            "Name a checkpoint of `rollhouse runs list`, a model folder, or a hub name that this machine can reach.",
        ) from error
