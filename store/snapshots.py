"""Snapshots: a name for one version of every table. The row is the commit; a Lance tag on each table keeps its version alive."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ..base.errors import ConfigError, VersionNotFound
from . import lease as leases
from .appending import insert_if_absent
from .lance_store import LanceStore, quote

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

# Versions are resolved in this order: what refers before what it refers to, so that every reference of a snapshot resolves in it.
_ORDER = (
    "snapshots", "labels", "checkpoints", "evaluations", "training_outcomes", "batch_plans", "metrics", "datasets", "scores",
    "rollouts", "prompt_tokens", "tokenizers", "tasks", "prompts", "blobs", "run_events",
)  # fmt: skip


def create_snapshot(store: LanceStore, name: str, note: str = "", run_id: str | None = None) -> dict[str, Any]:
    """Names the present state of every table and returns the snapshot as show_snapshot does.

    Raises ConfigError when the name is taken or unfit, WriteConflict while another process takes a snapshot of that name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} cannot name a snapshot.", "Use letters, digits, '.', '-' and '_'.")
    lease = leases.take(store, f"snapshot/{name}")
    try:
        if _rows(store, name):
            raise ConfigError(f"There is a snapshot {name!r} already.", "Snapshots never change: use another name.")
        versions = {}
        there = store.tables()
        for table in (table for table in _ORDER if table in there):
            dataset = store.lance_dataset(table)
            # A tag without a row is what a crash half-way left; it never was a snapshot.
            if name in dataset.tags.list():
                dataset.tags.delete(name)
            dataset.tags.create(name, dataset.version)
            versions[table] = dataset.version
        row = {
            "name": name,
            "note": note,
            "versions": [{"table": table, "version": version} for table, version in versions.items()],
            "run_id": run_id,
            "created_at": datetime.now(UTC),
        }
        insert_if_absent(store, "snapshots", [row])
    finally:
        lease.release()
    return show_snapshot(store, name)


def require_snapshot(store: LanceStore, name: str) -> None:
    """Raises VersionNotFound for a name that is no snapshot; a time is none, and its versions would not be kept."""
    if not _rows(store, name):
        raise VersionNotFound(f"There is no snapshot {name!r} in {store.uri}.", "Take one with `rollhouse snapshot create NAME`; a time is no snapshot.")  # fmt: skip


def list_snapshots(store: LanceStore) -> list[dict[str, Any]]:
    """Every snapshot, oldest first: name, note, rollouts (how many), run_id, created_at."""
    found = []
    for row in sorted(store.read("snapshots").to_pylist(), key=lambda row: (row["created_at"], row["name"])):
        found.append(
            {
                "name": row["name"],
                "note": row["note"],
                "rollouts": store.lance_dataset("rollouts", row["name"]).count_rows(),
                "run_id": row["run_id"],
                "created_at": row["created_at"],
            }
        )
    return found


def show_snapshot(store: LanceStore, name: str) -> dict[str, Any]:
    """One snapshot: name, note, run_id, created_at, tables (name to version and rows), used_by (datasets and runs).

    Raises VersionNotFound.
    """
    versions = store.versions(name)
    row = _row(store, name)
    tables = {
        table: {"version": version, "rows": store.lance_dataset(table, name).count_rows()}
        for table, version in versions.items()
    }
    return {
        "name": name,
        "note": row["note"],
        "run_id": row["run_id"],
        "created_at": row["created_at"],
        "tables": tables,
        "used_by": used_by(store, name),
    }


def diff_snapshots(store: LanceStore, a: str, b: str) -> dict[str, Any]:
    """What `b` has that `a` has not. Either may also be an ISO time.

    Returns tables (name to rows in a, rows in b, added), rollouts (one entry per run, environment and status of the rollouts
    added: run_id, environment, status, rollouts, mean_reward), and mean_reward: of all rollouts in a, in b, of those added, and the
    shift from a to b. A mean without a verdict is None.
    """
    tables = {}
    for table in sorted(_ORDER):
        before, after = (_rows_at(store, table, at) for at in (a, b))
        tables[table] = {"a": before, "b": after, "added": after - before}
    columns = ["rollout_id", "run_id", "environment", "status", "reward"]
    old, new = (store.read("rollouts", columns, at=at) for at in (a, b))
    known = old["rollout_id"].combine_chunks()
    added = new.filter(pc.invert(pc.is_in(new["rollout_id"], value_set=known)))
    means = {side: pc.mean(rows["reward"]).as_py() for side, rows in (("a", old), ("b", new), ("added", added))}
    mean_a, mean_b = means["a"], means["b"]
    return {
        "tables": tables,
        "rollouts": _by_run(added),
        "mean_reward": {**means, "shift": None if mean_a is None or mean_b is None else mean_b - mean_a},
    }


def _rows_at(store: LanceStore, table: str, at: str) -> int:
    if table not in store.versions(at, [table]):
        return 0  # it was added later
    return store.lance_dataset(table, at).count_rows()


def _by_run(rollouts: pa.Table) -> list[dict[str, Any]]:
    keys = ["run_id", "environment", "status"]
    grouped = rollouts.group_by(keys).aggregate([("rollout_id", "count"), ("reward", "mean")])
    rows = grouped.sort_by([(key, "ascending") for key in keys]).to_pylist()
    return [
        {**{key: row[key] for key in keys}, "rollouts": row["rollout_id_count"], "mean_reward": row["reward_mean"]}
        for row in rows
    ]


def delete_snapshot(store: LanceStore, name: str) -> None:
    """Takes the name away; a later gc may free what only it kept. Raises ConfigError while a dataset or a run refers to it."""
    _row(store, name)
    users = used_by(store, name)
    if users:
        raise ConfigError(
            f"Snapshot {name!r} is used by {', '.join(users)}.", "What refers to a snapshot needs it; it stays."
        )
    store.lance_dataset("snapshots").delete(f"name = {quote(name)}")
    there = store.tables()
    for table in (table for table in _ORDER if table in there):
        dataset = store.lance_dataset(table)
        if name in dataset.tags.list():
            dataset.tags.delete(name)


def used_by(store: LanceStore, name: str) -> list[str]:
    """The datasets (`dataset NAME@V`) and runs (`run RUN_ID`) that refer to the snapshot."""
    rows = store.read("datasets", ["name", "version"], filter=f"snapshot = {quote(name)}").to_pylist()
    datasets = [f"dataset {row['name']}@{row['version']}" for row in rows]
    events = store.read("run_events", ["run_id", "payload"], filter="event IN ('started', 'resumed')").to_pylist()
    runs = {event["run_id"] for event in events if _mentions(json.loads(event["payload"] or "{}"), name)}
    return sorted(datasets) + [f"run {run}" for run in sorted(runs)]


def _mentions(config: dict[str, Any], name: str) -> bool:
    return any(config.get(key) == name for key in ("snapshot", "at", "from_snapshot"))


def _rows(store: LanceStore, name: str) -> list[dict[str, Any]]:
    return store.read("snapshots", filter=f"name = {quote(name)}").to_pylist()


def _row(store: LanceStore, name: str) -> dict[str, Any]:
    rows = _rows(store, name)
    if not rows:
        raise VersionNotFound(f"There is no snapshot {name!r} in {store.uri}.", "`rollhouse snapshot list` names them.")
    return rows[0]
