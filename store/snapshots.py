"""Snapshots: a name for one version of every table. The row is the commit; a Lance tag on each table keeps its version alive."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from . import lease as leases
from .errors import ConfigError, VersionNotFound
from .house import House, quote

# Versions are resolved in this order: what refers before what it refers to, so that every reference of a snapshot resolves in it.
_ORDER = (
    "snapshots", "checkpoints", "evaluations", "training_outcomes", "batch_plans", "metrics", "datasets", "scores",
    "rollouts", "prompt_tokens", "tasks", "prompts", "blobs", "run_events",
)  # fmt: skip


def create_snapshot(house: House, name: str, note: str = "", run_id: str | None = None) -> dict[str, Any]:
    """Names the present state of every table and returns the snapshot as show_snapshot does.

    Raises ConfigError when the name is taken or unfit, WriteConflict while another process takes a snapshot of that name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} cannot name a snapshot.", "Use letters, digits, '.', '-' and '_'.")
    lease = leases.take(house, f"snapshot/{name}")
    try:
        if _rows(house, name):
            raise ConfigError(f"There is a snapshot {name!r} already.", "Snapshots never change: use another name.")
        versions = {}
        for table in _ORDER:
            dataset = house.dataset(table)
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
        house.insert_if_absent("snapshots", [row])
    finally:
        lease.release()
    return show_snapshot(house, name)


def list_snapshots(house: House) -> list[dict[str, Any]]:
    """Every snapshot, oldest first: name, note, rollouts (how many), run_id, created_at."""
    found = []
    for row in sorted(house.read("snapshots").to_pylist(), key=lambda row: (row["created_at"], row["name"])):
        found.append(
            {
                "name": row["name"],
                "note": row["note"],
                "rollouts": house.dataset("rollouts", row["name"]).count_rows(),
                "run_id": row["run_id"],
                "created_at": row["created_at"],
            }
        )
    return found


def show_snapshot(house: House, name: str) -> dict[str, Any]:
    """One snapshot: name, note, run_id, created_at, tables (name to version and rows), used_by (datasets and runs).

    Raises VersionNotFound.
    """
    versions = house.versions(name)
    row = _row(house, name)
    tables = {
        table: {"version": version, "rows": house.dataset(table, name).count_rows()}
        for table, version in versions.items()
    }
    return {
        "name": name,
        "note": row["note"],
        "run_id": row["run_id"],
        "created_at": row["created_at"],
        "tables": tables,
        "used_by": used_by(house, name),
    }


def diff_snapshots(house: House, a: str, b: str) -> dict[str, Any]:
    """What `b` has that `a` has not. Either may also be an ISO time.

    Returns tables (name to rows in a, rows in b, added), rollouts (one entry per run, environment and status of the rollouts
    added: run_id, environment, status, rollouts, mean_reward), and mean_reward (of all rollouts in a, and in b; None without any).
    """
    tables = {}
    for table in sorted(_ORDER):
        before, after = house.dataset(table, a).count_rows(), house.dataset(table, b).count_rows()
        tables[table] = {"a": before, "b": after, "added": after - before}
    columns = ["rollout_id", "run_id", "environment", "status", "reward"]
    old, new = (house.read("rollouts", columns, at=at).to_pylist() for at in (a, b))
    known = {row["rollout_id"] for row in old}
    groups: dict[tuple, list] = {}
    for row in new:
        if row["rollout_id"] not in known:
            groups.setdefault((row["run_id"], row["environment"], row["status"]), []).append(row)
    added = [
        {"run_id": run, "environment": env, "status": status, "rollouts": len(rows), "mean_reward": _mean(rows)}
        for (run, env, status), rows in sorted(groups.items())
    ]
    return {"tables": tables, "rollouts": added, "mean_reward": {"a": _mean(old), "b": _mean(new)}}


def delete_snapshot(house: House, name: str) -> None:
    """Takes the name away; a later gc may free what only it kept. Raises ConfigError while a dataset or a run refers to it."""
    _row(house, name)
    users = used_by(house, name)
    if users:
        raise ConfigError(
            f"Snapshot {name!r} is used by {', '.join(users)}.", "What refers to a snapshot needs it; it stays."
        )
    house.dataset("snapshots").delete(f"name = {quote(name)}")
    for table in _ORDER:
        dataset = house.dataset(table)
        if name in dataset.tags.list():
            dataset.tags.delete(name)


def used_by(house: House, name: str) -> list[str]:
    """The datasets (`dataset NAME@V`) and runs (`run RUN_ID`) that refer to the snapshot."""
    rows = house.read("datasets", ["name", "version"], filter=f"snapshot = {quote(name)}").to_pylist()
    datasets = [f"dataset {row['name']}@{row['version']}" for row in rows]
    events = house.read("run_events", ["run_id", "payload"], filter="event IN ('started', 'resumed')").to_pylist()
    runs = {event["run_id"] for event in events if _mentions(json.loads(event["payload"] or "{}"), name)}
    return sorted(datasets) + [f"run {run}" for run in sorted(runs)]


def _mentions(config: dict[str, Any], name: str) -> bool:
    return any(config.get(key) == name for key in ("snapshot", "at", "from_snapshot"))


def _rows(house: House, name: str) -> list[dict[str, Any]]:
    return house.read("snapshots", filter=f"name = {quote(name)}").to_pylist()


def _row(house: House, name: str) -> dict[str, Any]:
    rows = _rows(house, name)
    if not rows:
        raise VersionNotFound(f"There is no snapshot {name!r} in {house.uri}.", "`rollhouse snapshot list` names them.")
    return rows[0]


def _mean(rows: list[dict[str, Any]]) -> float | None:
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    return sum(rewards) / len(rewards) if rewards else None
