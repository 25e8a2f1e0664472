"""Packing chosen runs of a store into one file: their rows, prompts and tasks, and by choice dataset versions and checkpoints."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute

from ..base.errors import ConfigError, FormatError, WriteConflict
from . import journal
from . import lease as leases
from .checkpoint_paths import MARK, located
from .lance_store import LanceStore, quote
from .naming import run_named
from .pack_file import FILES, PackWriter
from .tables import TABLES
from .version import installed

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

Checkpoints = Literal["none", "last", "all"]
OF_RUN = ("rollouts", "scores", "run_events", "metrics", "batch_plans", "training_outcomes", "evaluations", "checkpoints")  # fmt: skip
"""Tables whose rows are packed by their run."""


@dataclass
class Packed:
    """What was packed.

    Attributes:
        bytes: Size of the file.
        rows: Rows by table.
        checkpoints: Checkpoints whose files are in it.
        notes: What is not in it though something in it refers to it, a sentence each.
    """

    file: str
    bytes: int
    runs: list[str]
    datasets: list[str]
    rows: dict[str, int] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pack(
    store: LanceStore, file: str | Path, runs: Sequence[str], datasets: Sequence[str] = (), checkpoints: Checkpoints = "none"
) -> Packed:  # fmt: skip
    """Writes a file that `unpacking.unpack` brings into another store; a file of that name is replaced once the new one is complete.

    Args:
        runs: Names of runs, as `naming.run_named` takes them.
        datasets: Dataset versions NAME@V whose rollouts all belong to packed runs. The run that built each is packed too.
        checkpoints: The files of which checkpoints of the runs: of none (their rows alone), of the last, or of all.

    Raises StoreNotFound for an unknown run, ConfigError for no run, an unknown dataset version or one that needs other runs, WriteConflict while a
    run is being written.
    """
    if checkpoints not in ("none", "last", "all"):
        raise ConfigError(f"There is no choice of checkpoints {checkpoints!r}.", "Choices are none, last and all.")
    chosen = [run_named(store, run) for run in runs]
    versions = _dataset_versions(store, datasets)
    chosen = list(dict.fromkeys([*chosen, *(row["run_id"] for row in versions if row["run_id"])]))
    if not chosen:
        raise ConfigError("No run was named.", "Name one with --run; `rollhouse runs list` lists them.")
    for run in chosen:
        if leases.holder_of(store, f"run/{run}") is not None:
            raise WriteConflict(f"Run {run!r} is being written.", "Pack it when it has ended.")
    selection = _Selection(store, chosen, versions)
    path = Path(file)
    for compress in (True, False):
        with PackWriter(path, compress) as out:
            packed = selection.write(out, checkpoints)
            dense = out.too_dense()
        if not dense:
            break
    packed.bytes = path.stat().st_size
    return packed


def _dataset_versions(store: LanceStore, labels: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for label in dict.fromkeys(labels):
        name, _, version = label.partition("@")
        rows = [] if not version.isdigit() else store.read("datasets", filter=f"name = {quote(name)} and version = {int(version)}").to_pylist()  # fmt: skip
        if not rows:
            raise ConfigError(f"There is no dataset version {label!r}.", "`rollhouse dataset list` names them, as NAME@V.")  # fmt: skip
        found += rows
    return found


class _Selection:
    """The rows of chosen runs and of what they refer to."""

    def __init__(self, store: LanceStore, runs: list[str], versions: list[dict[str, Any]]) -> None:
        self.store, self.runs, self.versions = store, runs, versions
        self.of_runs = f"run_id in ({', '.join(map(quote, runs))})"
        found = store.read("rollouts", ["rollout_id", "task_id", "prompt_id", "tokenizer_hash"], self.of_runs)
        self.rollouts = pc.unique(found["rollout_id"].combine_chunks())
        self.tokenizers = pc.unique(found["tokenizer_hash"].combine_chunks()).drop_null()
        references = [reference for row in versions for reference in row["rows"] or ()]
        self._refuse_other_rollouts(references)
        of_datasets = [reference["task_id"] for reference in references if reference["task_id"]]
        self.tasks = pc.unique(pa.concat_arrays([found["task_id"].combine_chunks(), pa.array(of_datasets, pa.string())])).drop_null()  # fmt: skip
        tasks = store.read("tasks", ["task_id", "prompt_id"])
        prompts = tasks.filter(pc.is_in(tasks["task_id"], value_set=self.tasks))["prompt_id"].combine_chunks()
        self.prompts = pc.unique(pa.concat_arrays([found["prompt_id"].combine_chunks(), prompts])).drop_null()

    def write(self, out: PackWriter, checkpoints: Checkpoints) -> Packed:
        labels = [f"{row['name']}@{row['version']}" for row in self.versions]
        packed = Packed(str(out.path), 0, self.runs, labels)
        for table in TABLES:
            batches = self._batches(table)
            if batches is not None:
                packed.rows[table] = out.table(table, batches)
        packed.notes += self._missing()
        self._write_checkpoints(out, checkpoints, packed)
        out.manifest({"rollhouse": installed(), "runs": self.runs, "datasets": labels, "notes": packed.notes})
        return packed

    def _batches(self, table: str) -> Iterator[pa.RecordBatch] | None:
        read = partial(self.store.batches, table, TABLES[table].schema.names)
        if table == "checkpoints":
            return map(_with_own_path, read(self.of_runs))
        if table in OF_RUN:
            return read(self.of_runs)
        ids = {
            "tasks": ("task_id", self.tasks),
            "prompts": ("prompt_id", self.prompts),
            "prompt_tokens": ("prompt_id", self.prompts),
            "labels": ("rollout_id", self.rollouts),
            "tokenizers": ("tokenizer_hash", self.tokenizers),
            "datasets": ("row_id", pa.array([row["row_id"] for row in self.versions], pa.string())),
            "snapshots": ("name", pa.array([row["snapshot"] for row in self.versions], pa.string())),
        }
        if table not in ids or table not in self.store.tables():
            return None
        column, wanted = ids[table]
        return (batch.filter(pc.is_in(batch[column], value_set=wanted)) for batch in read()) if len(wanted) else None

    def _refuse_other_rollouts(self, references: list[dict[str, Any]]) -> None:
        wanted = pa.array([reference["rollout_id"] for reference in references], pa.string()).drop_null()
        lost = wanted.filter(pc.invert(pc.is_in(wanted, value_set=self.rollouts)))
        if len(lost):
            runs = ", ".join(f"--run {run}" for run in sorted(self._runs_of(lost)))
            raise ConfigError(f"{len(lost)} rollouts of the datasets are of runs that are not packed.", f"Add {runs or 'their runs'}.")  # fmt: skip

    def _runs_of(self, rollouts: pa.Array) -> Counter[str]:
        known = self.store.read("rollouts", ["rollout_id", "run_id"])
        return Counter(known.filter(pc.is_in(known["rollout_id"], value_set=rollouts))["run_id"].to_pylist())

    def _missing(self) -> list[str]:
        """What refers to rollouts that are not packed, and verdicts on packed rollouts that are not."""
        notes = []
        for table in ("scores", "training_outcomes", "evaluations"):
            ids = self.store.read(table, ["rollout_id"], self.of_runs)["rollout_id"].combine_chunks().drop_null()
            lost = ids.filter(pc.invert(pc.is_in(ids, value_set=self.rollouts)))
            if len(lost):
                runs = ", ".join(sorted(self._runs_of(lost))) or "runs that are not in the store"
                notes.append(f"{len(lost)} rows of {table} are about rollouts that are not packed, of {runs}.")
        others = self.store.read("scores", ["rollout_id", "run_id"], f"not ({self.of_runs})")
        judged = others.filter(pc.is_in(others["rollout_id"], value_set=self.rollouts))["run_id"].to_pylist()
        notes += [f"{n} verdicts on packed rollouts, of run {run}, are not packed." for run, n in sorted(Counter(judged).items())]  # fmt: skip
        waiting = {run: n for run, n in journal.waiting(self.store).items() if run in self.runs}
        notes += [f"{n} rollouts of run {run} are in its journal, and not packed." for run, n in waiting.items()]
        return notes

    def _write_checkpoints(self, out: PackWriter, checkpoints: Checkpoints, packed: Packed) -> None:
        rows = self.store.read("checkpoints", filter=self.of_runs).to_pylist()
        rows = list({row["checkpoint_id"]: row for row in sorted(rows, key=lambda row: row["incarnation"])}.values())
        last = {row["run_id"]: row for row in sorted(rows, key=lambda row: row["step"])}
        wanted = {"none": [], "last": list(last.values()), "all": rows}[checkpoints]
        for row in wanted:
            folder = located(self.store, row)
            if folder is None:
                packed.notes.append(f"The files of checkpoint {row['checkpoint_id']} are not in the store.")
                continue
            files = sorted(file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
            fit = [file for file in files if file.parent == folder and FILES.fullmatch(file.name) and not file.is_symlink()]  # fmt: skip
            for file in fit:
                out.file(f"checkpoints/{row['run_id']}/step_{row['step']}/{file.name}", file)
            left = [str(file.relative_to(folder)) for file in files if file not in fit]
            if left:
                packed.notes.append(f"Left out of checkpoint {row['checkpoint_id']}: {', '.join(left)}.")
            if folder / MARK not in fit:
                raise FormatError(f"The folder {folder} has no {MARK}.", "Restore it.")
            packed.checkpoints.append(row["checkpoint_id"])
        without = len(rows) - len(packed.checkpoints)
        if without:
            packed.notes.append(f"{without} of {len(rows)} checkpoints are packed as rows, without their files.")


def _with_own_path(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of `checkpoints` with the path that a store's own checkpoints have: one of this machine means nothing elsewhere."""
    paths = [f"checkpoints/{run}/step_{step}" for run, step in zip(batch["run_id"].to_pylist(), batch["step"].to_pylist(), strict=True)]  # fmt: skip
    return batch.set_column(batch.schema.get_field_index("path"), "path", pa.array(paths, pa.string()))


def shown(packed: Packed) -> dict[str, Any]:
    """The counts of a pack as one row."""
    return {"file": packed.file, "bytes": packed.bytes, "runs": len(packed.runs), "datasets": len(packed.datasets), "checkpoints": len(packed.checkpoints), "rows": json.dumps(packed.rows)}  # fmt: skip
