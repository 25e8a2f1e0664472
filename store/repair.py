"""Putting a store right: journals left by killed writers, rows that are there twice, tags and columns that a crash left or an older version lacks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute

from ..base.errors import WriteConflict
from . import journal
from . import lease as leases
from .lance_store import LanceStore, quote
from .runs import end_run, list_runs
from .tables import TABLES

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute


def remove_copies(store: LanceStore, table: str, run_id: str | None = None) -> int:
    """Removes every row whose key an earlier row has, and returns how many; with `run_id`, of that run only.

    The row that was committed first stays, so any number of processes may do this at once.
    """
    filter = None if run_id is None else f"run_id = {quote(run_id)}"
    key = TABLES[table].key
    # Row ids rise with the commits and stay with their rows through compaction.
    rows = store.lance_dataset(table).to_table(columns=[key], filter=filter, with_row_id=True)
    rows = rows.sort_by("_rowid")
    codes = rows[key].combine_chunks().dictionary_encode().indices.to_numpy()
    later = np.ones(len(codes), bool)
    later[np.unique(codes, return_index=True)[1]] = False
    copies = rows["_rowid"].to_numpy()[later].tolist()
    for start in range(0, len(copies), 1000):
        store.lance_dataset(table).delete(f"_rowid IN ({', '.join(map(str, copies[start : start + 1000]))})")
    return len(copies)


def repair(store: LanceStore) -> list[str]:
    """Puts right what `check` finds and a crash can leave. Returns what was done, one sentence each; what it cannot mend is left as it is.

    Never waits: the journal of a run with a live writer is left alone.
    """
    LanceStore.create(store.uri)
    done = [*_replay_journals(store), *_remove_all_copies(store), *_remove_stray_tags(store)]
    return [*done, *_end_imports(store)]


def _end_imports(store: LanceStore) -> Iterator[str]:
    for run in list_runs(store):
        if run["kind"] == "import" and run["status"] == "running":
            try:
                lease = leases.take(store, f"run/{run['run_id']}")
            except WriteConflict:
                continue
            try:
                end_run(
                    store,
                    run,
                    lease,
                    "failed",
                    {"error": "Killed", "message": "the process ended before the import did"},
                )
            finally:
                lease.release()
            yield f"Import {run['run_id']} had no end: it is marked as failed; what it stored stays."


def _replay_journals(store: LanceStore) -> Iterator[str]:
    for run_id, rows in journal.waiting(store).items():
        try:
            lease = leases.take(store, f"run/{run_id}")
        except WriteConflict:
            continue
        try:
            new = journal.replay(store, run_id)
        finally:
            lease.release()
        yield f"Run {run_id} had {rows} rollouts in its journal: {new} were new and are in the store now."


def _remove_all_copies(store: LanceStore) -> Iterator[str]:
    for table in store.tables():
        removed = remove_copies(store, table)
        if removed:
            yield f"Table {table} had {removed} rows twice; the first of each stays."


def _remove_stray_tags(store: LanceStore) -> Iterator[str]:
    snapshots = set(store.read("snapshots", ["name"])["name"].to_pylist())
    for table in store.tables():
        dataset = store.lance_dataset(table)
        for name in sorted(set(dataset.tags.list()) - snapshots):
            # Somebody may be taking the snapshot now: its row comes last.
            if leases.holder_of(store, f"snapshot/{name}") is None:
                dataset.tags.delete(name)
                yield f"Table {table} had a tag {name!r} that is no snapshot."
