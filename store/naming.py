"""How people name what a store holds: whole ids, their beginnings, `latest`, `RUN/step_N`, `RUN/best` and `RUN/latest`."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..base.errors import ConfigError, StoreNotFound
from .lance_store import LanceStore, quote

LATEST = "latest"
"""Names the run that started last; in `RUN/latest` its last checkpoint."""
_LISTED = 10
_IDS = (("rollout", "rollouts", "rollout_id"), ("group", "rollouts", "group_id"), ("task", "tasks", "task_id"))
_OF_RUN = re.compile(r"(?P<run>.+)/(?P<which>best|latest|step_\d+)")


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        kind: checkpoint, run, dataset, snapshot, rollout, group or task.
        id: Its whole id; NAME@V of a dataset version.
    """

    kind: str
    id: str


def run_named(store: LanceStore, name: str) -> str:
    """The id of a run, given whole, by a beginning that no other run has, or as `latest`.

    Raises StoreNotFound naming runs of similar name, ConfigError that lists the runs when several begin so.
    """
    # A beginning needs every name, a whole id none of them.
    if name and store.lance_dataset("run_events").count_rows(f"run_id = {quote(name)}"):
        return name
    if name and store.lance_dataset("rollouts").count_rows(f"run_id = {quote(name)}"):
        return name  # rows that came without the events of their run
    started = store.read("run_events", ["run_id", "created_at"], "event in ('started', 'resumed')").to_pylist()
    if not started:
        raise StoreNotFound(f"There is no run {name!r} in {store.uri}: it has none.", "`rollhouse collect` makes one.")
    if name == LATEST:
        return max(started, key=lambda row: row["created_at"])["run_id"]
    runs = {row["run_id"] for row in started}
    found = sorted(run for run in runs if name and run.startswith(name))
    if len(found) > 1:
        raise _several(name, [Named("run", run) for run in found])
    if not found:
        near = difflib.get_close_matches(name, runs, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else "`rollhouse runs list` names them."
        raise StoreNotFound(f"There is no run {name!r} in {store.uri}.", hint)
    return found[0]


def of_run(name: str) -> tuple[str, str] | None:
    """RUN and `best`, `latest` or `step_N` of a name that joins them with a slash; None for another."""
    found = _OF_RUN.fullmatch(name)
    return (found["run"], found["which"]) if found else None


def checkpoint_named(store: LanceStore, name: str) -> str | None:
    """The name of a checkpoint with the run's whole id, for `RUN/step_N`, `RUN/best`, `RUN/latest` (the run's id alone) and a run; None for no run.

    `latest` is the checkpoint that was saved last. Raises ConfigError when several runs begin so.
    """
    if name == LATEST:
        saved = store.read("checkpoints", ["checkpoint_id", "created_at"]).to_pylist()
        return max(saved, key=lambda row: row["created_at"])["checkpoint_id"] if saved else None
    parts = of_run(name)
    try:
        run = run_named(store, parts[0] if parts else name)
    except StoreNotFound:
        return None
    return run if parts is None or parts[1] == LATEST else f"{run}/{parts[1]}"


def named(store: LanceStore, name: str) -> Named:
    """What the name stands for. A whole id goes before a beginning.

    Raises StoreNotFound with similar names, ConfigError that lists what begins so when several do.
    """
    listed = _listed(store)
    for one in listed:
        if one.id == name:
            return one
    for kind, table, column in _IDS:
        if store.lance_dataset(table).count_rows(f"{column} = {quote(name)}"):
            return Named(kind, name)
    if name == LATEST:
        return Named("run", run_named(store, name))
    parts = of_run(name)
    if parts is not None:
        return _checkpoint(store, run_named(store, parts[0]), parts[1])
    found = [one for one in listed if name and one.id.startswith(name)] + _beginning(store, name)
    # A run's checkpoints begin as the run does, and a dataset's versions as each other: the run, and the last version.
    found = _without_followers(found)
    if len(found) > 1:
        raise _several(name, found)
    if not found:
        near = difflib.get_close_matches(name, [one.id for one in listed], n=3, cutoff=0.5)
        raise StoreNotFound(
            f"There is no run, checkpoint, dataset version, snapshot, rollout, group or task {name!r} in {store.uri}.",
            f"Did you mean {', '.join(near)}?"
            if near
            else "`rollhouse runs list` names the runs; a dataset version is written NAME@V.",
        )
    return found[0]


def _listed(store: LanceStore) -> list[Named]:
    runs = dict.fromkeys(store.read("run_events", ["run_id"])["run_id"].to_pylist())
    checkpoints = dict.fromkeys(store.read("checkpoints", ["checkpoint_id"])["checkpoint_id"].to_pylist())
    versions = sorted((row["name"], row["version"]) for row in store.read("datasets", ["name", "version"]).to_pylist())
    snapshots = store.read("snapshots", ["name"])["name"].to_pylist()
    latest = {name: version for name, version in versions}
    return [
        *(Named("run", run) for run in runs),
        *(Named("checkpoint", checkpoint) for checkpoint in checkpoints),
        *(Named("dataset", f"{name}@{version}") for name, version in reversed(versions)),
        *(Named("snapshot", snapshot) for snapshot in snapshots),
        *(Named("dataset", name) for name in latest if name not in runs and name not in snapshots),
    ]


def _beginning(store: LanceStore, name: str) -> list[Named]:
    found = []
    for kind, table, column in _IDS if name else ():
        rows = store.read(table, [column], f"starts_with({column}, {quote(name)})")
        found += [Named(kind, id) for id in rows[column].unique().to_pylist()]
    return found


def _without_followers(found: list[Named]) -> list[Named]:
    """Without checkpoints of a run that is there too, and without versions of a dataset that is."""
    runs = {one.id for one in found if one.kind == "run"}
    sets = {one.id for one in found if one.kind == "dataset" and "@" not in one.id}
    return [
        one
        for one in found
        if not (one.kind == "checkpoint" and one.id.rpartition("/")[0] in runs)
        and not (one.kind == "dataset" and "@" in one.id and one.id.partition("@")[0] in sets)
    ]


def _checkpoint(store: LanceStore, run: str, which: str) -> Named:
    rows = store.read("checkpoints", ["checkpoint_id", "step"], f"run_id = {quote(run)}").to_pylist()
    if which.startswith("step_"):
        rows = [row for row in rows if row["checkpoint_id"] == f"{run}/{which}"]
    if not rows:
        raise StoreNotFound(
            f"Run {run!r} has no checkpoint {which!r}.", "`rollhouse show RUN` lists those that it has."
        )
    if which == "best":
        return Named("checkpoint", f"{run}/best")
    return Named("checkpoint", max(rows, key=lambda row: row["step"])["checkpoint_id"])


def _several(name: str, found: Iterable[Named]) -> ConfigError:
    found = list(found)
    shown = ", ".join(f"{one.kind} {one.id}" for one in found[:_LISTED]) + (", …" if len(found) > _LISTED else "")
    return ConfigError(f"{len(found)} things begin with {name!r}: {shown}.", "Give more of the id.")
