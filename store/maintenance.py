"""Keeping a store small and sound: compact, gc, check. Each may run beside writers; one maintenance at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyarrow.compute

from ..base.errors import DamagedStore, WriteConflict, one_line
from . import hashes, journal
from . import lease as leases
from .damage import damage_of
from .lance_store import LanceStore
from .lease import LEASES
from .runs import list_runs
from .tables import TABLES
from .upkeep import join_fragments
from .validation import REQUIRED

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

OnTable = Callable[[str], None]
RETENTION = timedelta(hours=1)

REFERENCES = (
    ("rollouts", "prompt_id", "prompts", "prompt_id"),
    ("rollouts", "task_id", "tasks", "task_id"),
    ("rollouts", "run_id", "run_events", "run_id"),
    ("tasks", "prompt_id", "prompts", "prompt_id"),
    ("prompt_tokens", "prompt_id", "prompts", "prompt_id"),
    ("scores", "rollout_id", "rollouts", "rollout_id"),
    ("labels", "rollout_id", "rollouts", "rollout_id"),
    ("metrics", "run_id", "run_events", "run_id"),
    ("batch_plans", "run_id", "run_events", "run_id"),
    ("training_outcomes", "rollout_id", "rollouts", "rollout_id"),
    ("checkpoints", "run_id", "run_events", "run_id"),
    ("evaluations", "run_id", "run_events", "run_id"),
    ("datasets", "snapshot", "snapshots", "name"),
)


def compact(store: LanceStore, on_table: OnTable | None = None) -> list[dict[str, Any]]:
    """Joins the small fragments that many commits leave. Contents, row order and snapshots stay as they are.

    Returns one dict a table: table, fragments_before, fragments_after. Raises WriteConflict while other maintenance runs.
    """
    report = []
    with _maintenance(store):
        for table in _tables(store, on_table):
            before = len(store.lance_dataset(table).get_fragments())
            join_fragments(store, table, at_least=2)
            after = len(store.lance_dataset(table).get_fragments())
            report.append({"table": table, "fragments_before": before, "fragments_after": after})
    return report


def gc(
    store: LanceStore, yes: bool = False, retention: timedelta = RETENTION, on_table: OnTable | None = None
) -> list[dict[str, Any]]:
    """Removes old versions that no snapshot names and that are older than `retention`; without `yes` it only returns what it would do.

    Keep an hour or more, or readers that opened a version lose it under their hands, and `--at TIME` reaches less far back. Returns one
    dict a table: table, versions (removed or to be), bytes (freed or to be). Raises WriteConflict while other maintenance runs.
    """
    options: dict[str, Any] = {"older_than": retention, "error_if_tagged_old_versions": False}
    report = []
    with _maintenance(store, frees=True):
        for table in _tables(store, on_table):
            dataset = store.lance_dataset(table)
            if yes:
                stats = dataset.cleanup_old_versions(**options)
                hashes.forget_gone(store, table)
            else:
                stats = dataset.explain_cleanup_old_versions(**options).stats
            report.append({"table": table, "versions": stats.old_versions, "bytes": stats.bytes_removed})
    return report


def check(store: LanceStore, on_table: OnTable | None = None, deep: bool = False) -> list[str]:
    """What is wrong with the store, one sentence each; empty when it is sound.

    Looks at every table: there, in the expected schema, files as they were written (`deep`: all of them, and every column read; else as many as
    damage.SAMPLED_BYTES hold), keys unique and without an index, references resolving; at the required columns and the rewards of rollouts; at the
    journals of runs without a writer; and at every snapshot: its versions readable and tagged, and no tag without a snapshot.
    `repair.repair` mends what a crash can leave, `damage.salvage` brings what is whole into a new version.
    """
    problems: list[str] = []
    for table in store.tables():
        if on_table:
            on_table(table)
        problems += _table_problems(store, table, deep)
    if problems:
        return problems
    problems += _journal_problems(store)
    if not problems:
        problems += _rollout_problems(store)
    if problems:
        return problems
    for reference in REFERENCES:
        problems += _reference_problems(store, *reference)
    problems += _dataset_problems(store)
    problems += _crash_problems(store)
    return problems + _snapshot_problems(store, deep)


@contextmanager
def _maintenance(store: LanceStore, frees: bool = False) -> Iterator[None]:
    """The maintenance lease. What only `frees` space does without one where the disk is too full to write it: the folder is locked instead."""
    try:
        lease = leases.take(store, "maintenance")
    except OSError:
        if not frees or "://" in store.uri or leases.holder_of(store, "maintenance") is not None:
            raise
        with _locked(store.uri):
            yield
        return
    try:
        yield
    finally:
        try:
            lease.release()
        except OSError:  # the disk is full; a lease of a process that has ended blocks no one
            if not frees:
                raise


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    import fcntl

    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise WriteConflict("Another gc is running on this store.", "Wait for it to end.") from None
    finally:
        os.close(opened)


def _tables(store: LanceStore, on_table: OnTable | None) -> Iterator[str]:
    for table in (*store.tables(), LEASES.name):
        if on_table:
            on_table(table)
        yield table


def _table_problems(store: LanceStore, table: str, deep: bool) -> list[str]:
    if not store.has_table(table):
        return [f"Table {table} is missing."]
    try:
        dataset = store.lance_dataset(table)
    except DamagedStore as error:
        return [error.message]
    expected = TABLES[table].schema
    lacking = [name for name in expected.names if name not in dataset.schema.names]
    problems = [f"Table {table} lacks the column {name}." for name in lacking]
    for name in expected.names:
        if name not in lacking and dataset.schema.field(name).type != expected.field(name).type:
            found = dataset.schema.field(name).type
            problems.append(f"Column {table}.{name} is {found}, not {expected.field(name).type}.")
    damages = damage_of(store, table, dataset, deep)
    if damages:
        return problems + [str(damage) for damage in damages]
    broken = _unreadable(dataset)
    if broken:
        return [*problems, f"Table {table} cannot be read: {broken}"]
    key = TABLES[table].key
    if any(key in index.field_names for index in dataset.describe_indices()):
        problems.append(f"Table {table} has an index on its key, with which concurrent writers insert twice: drop it.")
    counts = pc.value_counts(dataset.to_table(columns=[key])[key])
    twice = [entry["values"] for entry in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist()]
    if twice:
        problems.append(f"Table {table} has {len(twice)} keys more than once, {twice[0]!r} among them.")
    return problems


def _rollout_problems(store: LanceStore) -> list[str]:
    """Rows of `rollouts` that no writer lets in: raw appends made them."""
    rows = store.read("rollouts", ["reward", *REQUIRED])
    problems = [
        f"Column rollouts.{name} is empty in {rows[name].null_count} rows."
        for name in REQUIRED
        if rows[name].null_count
    ]
    endless = pc.sum(pc.invert(pc.is_finite(rows["reward"]))).as_py() or 0
    return problems + ([f"Column rollouts.reward is not finite in {endless} rows."] if endless else [])


def _crash_problems(store: LanceStore) -> list[str]:
    """What processes that were killed left besides journals: imports without an end, and served rollouts whose server is gone."""
    problems = []
    opened = journal.open_calls(store)
    for run in list_runs(store):
        run_id = run["run_id"]
        if run["status"] != "running" or leases.holder_of(store, f"run/{run_id}") is not None:
            continue
        if run["kind"] == "import":
            problems.append(
                f"Import {run_id} has no end and no process: import the file again with --run {run_id}, or `check --repair` ends it."
            )
        if run_id in opened:
            problems.append(
                f"Run {run_id} has {opened[run_id]} open served rollouts and no server: serve it again with --run {run_id} to go on."
            )
    return problems


def _journal_problems(store: LanceStore) -> list[str]:
    return [
        f"Run {run_id} left {rows} rollouts in its journal; they come in when it is started again, or by `check --repair`."
        for run_id, rows in journal.waiting(store).items()
        if leases.holder_of(store, f"run/{run_id}") is None
    ]


def _unreadable(dataset: Any) -> str | None:
    try:
        dataset.validate()
    except (OSError, ValueError, RuntimeError) as error:
        return _reason(error)
    return None


def _reference_problems(store: LanceStore, table: str, column: str, target: str, key: str) -> list[str]:
    references = store.read(table, [column])[column].unique().drop_null()
    known = store.read(target, [key])[key].combine_chunks()
    lost = references.filter(pc.invert(pc.is_in(references, value_set=known))).to_pylist()
    if not lost:
        return []
    return [f"{len(lost)} values of {table}.{column} are not in {target}, {lost[0]!r} among them."]


def _dataset_problems(store: LanceStore) -> list[str]:
    problems = []
    for row in store.read("datasets", ["name", "version", "snapshot", "rows"]).to_pylist():
        wanted = {reference["rollout_id"] for reference in row["rows"] or ()} - {None}
        if not wanted:
            continue
        known = set(store.read("rollouts", ["rollout_id"], at=row["snapshot"])["rollout_id"].to_pylist())
        if wanted - known:
            name = f"{row['name']}@{row['version']}"
            problems.append(f"Dataset {name} refers to {len(wanted - known)} rollouts that its snapshot does not hold.")
    return problems


def _snapshot_problems(store: LanceStore, deep: bool) -> list[str]:
    problems = []
    snapshots = {row["name"]: row["versions"] for row in store.read("snapshots").to_pylist()}
    for table in store.tables():
        try:
            tags = {name: tag["version"] for name, tag in store.lance_dataset(table).tags.list().items()}
        except (OSError, ValueError, RuntimeError) as error:
            problems.append(f"Table {table} has a tag that cannot be read: {_reason(error)}")
            continue
        for name in sorted(set(tags) - set(snapshots)):
            problems.append(f"Table {table} has a tag {name!r} that is no snapshot.")
        for name, versions in snapshots.items():
            version = {entry["table"]: entry["version"] for entry in versions}.get(table)
            if version is None:
                continue
            if tags.get(name) != version:
                problems.append(f"Snapshot {name!r} has lost its tag on {table}; a gc may take its rows.")
            problems += _version_problems(store, table, name, version, deep)
    return problems


def _version_problems(store: LanceStore, table: str, snapshot: str, version: int, deep: bool) -> list[str]:
    try:
        dataset = store.lance_dataset_version(table, version)
        damages = damage_of(store, table, dataset, deep)
        broken = None if damages else _unreadable(dataset)
    except (OSError, ValueError, RuntimeError) as error:
        broken, damages = _reason(error), []
    problems = [f"Snapshot {snapshot!r} cannot read {table}: {broken}"] if broken else []
    return problems + [f"Snapshot {snapshot!r}: {damage}" for damage in damages]


def _reason(error: BaseException) -> str:
    """The first line of an error of Lance, without the place in its source."""
    return one_line(str(error).splitlines()[0])
