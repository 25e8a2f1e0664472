"""Bringing a pack into a store: every hash, row and conflict is checked before anything is written, and a second unpack adds nothing.

Prompts and tasks come first, then rollouts, what refers to them, and the events of the runs: a run is listed once all its rows are there. An unpack
that was interrupted is repeated with the same file.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ..base.errors import FormatError, WriteConflict
from . import lease as leases
from .appending import insert_if_absent, to_arrow
from .checkpoint_paths import MARK, own_folder
from .ids import has_id_form, hash_id
from .lance_store import LanceStore, quote
from .maintenance import REFERENCES
from .pack_file import CHUNK, PackReader
from .packing import OF_RUN
from .snapshots import create_snapshot
from .tables import TABLES
from .validation import check_rollouts

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

_ORDER = (
    "prompts", "prompt_tokens", "tokenizers", "tasks", "rollouts", "scores", "labels", "metrics", "batch_plans", "training_outcomes", "evaluations",
    "checkpoints", "run_events", "datasets",
)  # fmt: skip
# Columns that two stores may have otherwise for one key: named by content, these rows came into each in its own way; a path is a place.
_FREE = {
    "tasks": {"category", "difficulty", "source_key", "extra", "created_at", "state"},
    "checkpoints": {"path"},
    "tokenizers": {"created_at"},
}
_AT_ONCE = 500


@dataclass
class Unpacked:
    """What came in.

    Attributes:
        added: Rows that were new, by table.
        present: Rows that the store held already, by table.
        waiting: Rows left out because what they refer to is in neither; a later unpack of this file adds them once it is. By `table.column`.
        checkpoints: Checkpoints whose files were added.
        notes: What the pack lacks, as `pack` said it.
    """

    file: str
    runs: list[str]
    added: dict[str, int] = field(default_factory=dict)
    present: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def unpack(store: LanceStore, file: str | Path) -> Unpacked:
    """Brings the runs of a pack into the store, ids kept.

    Raises FormatError for a file that is not as `pack` wrote it, StoreTooNew for one of a later format, SchemaMismatch for a rollout that no writer would
    store, WriteConflict naming an id that the store has with other content, or a run that is being written.
    """
    with PackReader(Path(file)) as pack, ExitStack() as held:
        _check_rows(pack)
        for run in sorted(pack.manifest["runs"]):
            held.callback(leases.take(store, f"run/{run}").release)
        _refuse_conflicts(store, pack)
        notes = [str(note) for note in pack.manifest.get("notes") or ()]
        done = Unpacked(str(file), list(pack.manifest["runs"]), notes=notes)
        for table in _ORDER:
            if table == "run_events":
                _add_checkpoint_files(store, pack, done)
            if table == "datasets":
                _take_snapshots(store, pack)
            _add(store, pack, table, done)
    return done


def _check_rows(pack: PackReader) -> None:
    """Raises FormatError for rows that belong to no run of the pack, that have unfit ids, or that are there twice."""
    runs = pa.array(pack.manifest["runs"], pa.string())
    started: set[str] = set()
    for table in (*_ORDER, "snapshots"):
        keys: set[str] = set()
        for batch in pack.batches(table):
            found = batch[TABLES[table].key]
            ids = found.to_pylist()
            if (
                found.null_count
                or not all(map(has_id_form, ids))
                or len(ids) != len(set(ids))
                or not keys.isdisjoint(ids)
            ):
                raise _unfit(pack, f"a key of {table} is missing, not an id, or there twice")
            keys.update(ids)
            if table in (*OF_RUN, "datasets") and not pc.all(pc.is_in(batch["run_id"], value_set=runs)).as_py():
                raise _unfit(pack, f"rows of {table} are of a run that the manifest does not name")
            if table == "run_events":
                started |= {row["run_id"] for row in batch.to_pylist() if row["event"] == "started"}
            _check_batch(pack, table, batch)
    if started != set(pack.manifest["runs"]):
        raise _unfit(pack, "a run has no event `started`")


def _check_batch(pack: PackReader, table: str, batch: pa.RecordBatch) -> None:
    if table == "rollouts":
        data = to_arrow(table, batch)
        for run in pc.unique(batch["run_id"]).to_pylist():
            for part in data.filter(pc.equal(data["run_id"], run)).combine_chunks().to_batches():
                check_rollouts(part, run)
    if table == "checkpoints":
        for row in batch.to_pylist():
            place = f"{row['run_id']}/step_{row['step']}"
            if row["checkpoint_id"] != place or row["path"] != f"checkpoints/{place}":
                raise _unfit(pack, f"a checkpoint of run {row['run_id']} has another id or path than its run and step")
    if table == "snapshots" and not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in batch["name"].to_pylist()):  # fmt: skip
        raise _unfit(pack, "the name of a snapshot is unfit")


def _refuse_conflicts(store: LanceStore, pack: PackReader) -> None:
    """Raises WriteConflict when the store has a key of the pack with other content, so that nothing is mixed."""
    for table in _ORDER:
        there = _keys(store, table)
        compared = [name for name in TABLES[table].schema.names if name not in _FREE.get(table, ())]
        for batch in pack.batches(table):
            key = TABLES[table].key
            known = batch.filter(pc.is_in(batch[key], value_set=there))
            for first in range(0, known.num_rows, _AT_ONCE):
                ours = {row[key]: row for row in to_arrow(table, known.slice(first, _AT_ONCE)).to_pylist()}
                theirs = store.read(table, compared, f"{key} in ({', '.join(map(quote, ours))})").to_pylist()
                for row in theirs:
                    # As text: a number that is none equals itself.
                    differs = [name for name in compared if repr(row[name]) != repr(ours[row[key]][name])]
                    if differs:
                        raise _conflict(table, row, differs)
    for row in _rows(pack, "datasets"):
        found = store.read("snapshots", ["name"], f"name = {quote(row['snapshot'])}").num_rows
        wanted = {reference["rollout_id"] for reference in row["rows"] or ()} - {None}
        if found and wanted - set(store.read("rollouts", ["rollout_id"], at=row["snapshot"])["rollout_id"].to_pylist()):
            raise WriteConflict(f"The store has another snapshot {row['snapshot']!r} than the one that dataset {row['name']}@{row['version']} refers to.", "Nothing was written. Unpack into another store.")  # fmt: skip
    for run, step in pack.checkpoints:
        _refuse_other_files(store, pack, run, step)


def _refuse_other_files(store: LanceStore, pack: PackReader, run: str, step: int) -> None:
    rows = [row for row in _rows(pack, "checkpoints") if row["checkpoint_id"] == f"{run}/step_{step}"]
    if not rows or MARK not in pack.checkpoints[run, step]:
        raise _unfit(pack, f"the files of checkpoint {run}/step_{step} have no row or no {MARK}")
    mark = pack.json(run, step, MARK)
    if not isinstance(mark, dict) or (mark.get("run"), mark.get("checkpoint")) != (_identity(pack, run), f"{run}/step_{step}"):  # fmt: skip
        raise _unfit(pack, f"{MARK} of checkpoint {run}/step_{step} names another run")
    place = _place(store, run, step)
    if place is None or not os.path.lexists(place):
        return
    same = not place.is_symlink() and all(
        (place / file).is_file() and _sha256(place / file) == pack.sha256(run, step, file)
        for file in pack.checkpoints[run, step]
    )
    if not same:
        raise WriteConflict(f"The store has other files of checkpoint {run}/step_{step}.", "Nothing was written. Unpack into another store.")  # fmt: skip


def _add(store: LanceStore, pack: PackReader, table: str, done: Unpacked) -> None:
    """Inserts the rows of a table whose references resolve in the store as it is now."""
    there = _keys(store, table)
    known = [
        (column, _keys(store, target))
        for of, column, target, key in REFERENCES
        if of == table and target in _ORDER[: _ORDER.index(table)] and key == TABLES[target].key
    ]
    for batch in pack.batches(table):
        new = batch.filter(pc.invert(pc.is_in(batch[TABLES[table].key], value_set=there)))
        _count(done.present, table, batch.num_rows - new.num_rows)
        for column, ids in known:
            resolved = pc.or_(pc.is_null(new[column]), pc.is_in(new[column], value_set=ids))
            _count(done.waiting, f"{table}.{column}", new.num_rows - (pc.sum(resolved).as_py() or 0))
            new = new.filter(resolved)
        if new.num_rows:
            _count(done.added, table, insert_if_absent(store, table, new))


def _add_checkpoint_files(store: LanceStore, pack: PackReader, done: Unpacked) -> None:
    for run, step in sorted(pack.checkpoints):
        place = _place(store, run, step)
        if place is None:
            done.notes.append(f"The files of checkpoint {run}/step_{step} are not added: an object store has none.")
            continue
        if os.path.lexists(place):
            continue
        partial = place.with_name(f"tmp_step_{step}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pack.copy(run, step, partial)
        partial.rename(place)
        done.checkpoints.append(f"{run}/step_{step}")


def _identity(pack: PackReader, run: str) -> str:
    """As checkpoint_paths.identity_of, of a run whose events are not in the store yet."""
    events = [row for row in _rows(pack, "run_events") if row["run_id"] == run and row["event"] == "started"]
    return hash_id(run, min(events, key=lambda row: row["sequence"])["created_at"].timestamp())[:12]


def _take_snapshots(store: LanceStore, pack: PackReader) -> None:
    """The snapshots of the datasets, over the tables of this store, which hold every row that the datasets refer to."""
    used = {row["snapshot"] for row in _rows(pack, "datasets")}
    for row in _rows(pack, "snapshots"):
        if row["name"] in used and not store.read("snapshots", ["name"], f"name = {quote(row['name'])}").num_rows:
            create_snapshot(store, row["name"], row["note"] or "")


def _rows(pack: PackReader, table: str) -> Iterator[dict[str, Any]]:
    for batch in pack.batches(table):
        yield from to_arrow(table, batch).to_pylist()


def _keys(store: LanceStore, table: str) -> pa.Array:
    key = TABLES[table].key
    return pa.concat_arrays(store.read(table, [key])[key].chunks or [pa.array([], pa.string())])


def _place(store: LanceStore, run: str, step: int) -> Path | None:
    own = own_folder(store)
    return None if own is None else own / run / f"step_{step}"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as read:
        while chunk := read.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _count(counts: dict[str, int], name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + number


def _conflict(table: str, row: dict[str, Any], differs: list[str]) -> WriteConflict:
    of = f" of run {row['run_id']}" if row.get("run_id") else ""
    return WriteConflict(f"The store has {row[TABLES[table].key]!r} in {table}{of} with other content: {', '.join(differs)}.", "Nothing was written. Unpack into another store.")  # fmt: skip


def _unfit(pack: PackReader, what: str) -> FormatError:
    return FormatError(f"{pack.path} cannot be unpacked: {what}.", "Pack the runs again.")
