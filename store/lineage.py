"""What made this? From a checkpoint back to the rollouts and the policies that made them."""

import difflib
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ..base.errors import StoreNotFound, VersionNotFound
from .batches import planned_rollouts, step_ranges, summed
from .lance_store import LanceStore, quote
from .naming import named
from .runs import list_runs

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

_COLUMNS = ["rollout_id", "run_id", "task_id", "policy_id", "policy_version", "engine", "reward"]


@dataclass
class Node:
    """One thing and what it was made from.

    Attributes:
        kind: checkpoint, run, batches, batch, dataset, snapshot, rollouts or policy.
        id: What `lineage` accepts for it; for `rollouts` the collecting run_id (a rollout_id when it is one rollout), for `batches` the
            training run's, for `batch` the steps.
        label: One line for people.
        children: What it was made from. Empty at an origin, and at a node whose line was given earlier in the tree.
        rollouts: Of a `batch`, when requested: what its steps used and left out, rows of batches.planned_rollouts.
    """

    kind: str
    id: str
    label: str
    children: list["Node"] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)


def lineage(store: LanceStore, id: str, rollouts: bool = False) -> Node:
    """The tree of what `id` was made from: a checkpoint_id, run_id, dataset NAME@V, snapshot name or rollout_id, or what `naming.named` takes for one.

    checkpoint → run → dataset versions, base policy → snapshot → rollouts by collecting run and policy → policy → its checkpoint or
    online run, and so on. An online run also lists the rollouts it collected itself, and its batches; a replay those of the run it is of.
    With `rollouts`, a batch is one step and holds its rollouts with their advantages. Raises StoreNotFound naming similar ids.
    """
    store_view = _View(store, rollouts)
    id = _whole(store_view, id)
    checkpoint = store_view.checkpoints.get(id)
    if checkpoint:
        return _checkpoint(store_view, checkpoint)
    if id in store_view.runs:
        return _run(store_view, id)
    if id in store_view.datasets:
        return _dataset(store_view, id)
    if id in store_view.snapshots:
        return Node("snapshot", id, _snapshot_label(store_view, id), _rollouts(store_view, _read(store, id)))
    found = store.read("rollouts", [*_COLUMNS, "status"], filter=f"rollout_id = {quote(id)}")
    if found.num_rows:
        return _one_rollout(store_view, found.to_pylist()[0])
    names = [*store_view.checkpoints, *store_view.runs, *store_view.datasets, *store_view.snapshots]
    near = difflib.get_close_matches(id, names, n=3, cutoff=0.5)
    raise StoreNotFound(
        f"There is no checkpoint, run, dataset version, snapshot or rollout {id!r} in {store.uri}.",
        f"Did you mean {', '.join(near)}?" if near else "A dataset version is written NAME@V.",
    )


def _whole(view: "_View", id: str) -> str:
    """The whole id of a beginning or of a name like `latest` or RUN/best; the id itself where it is whole, or where lineage knows nothing of its kind."""
    if id in view.checkpoints or id in view.runs or id in view.datasets or id in view.snapshots:
        return id
    try:
        found = named(view.store, id)
    except StoreNotFound:
        return id
    if found.kind == "dataset" and "@" not in found.id:
        return max(
            (one for one in view.datasets if one.partition("@")[0] == found.id),
            key=lambda one: view.datasets[one]["version"],
        )
    return found.id if found.kind in ("checkpoint", "run", "dataset", "snapshot", "rollout") else id


class _View:
    """What lineage looks up, read once, and what it has shown already."""

    def __init__(self, store: LanceStore, rollouts: bool) -> None:
        self.store, self.rollouts = store, rollouts
        self.runs = {run["run_id"]: run for run in list_runs(store)}
        checkpoints = store.read("checkpoints").sort_by([("created_at", "ascending")]).to_pylist()
        self.checkpoints = {row["checkpoint_id"]: row for row in checkpoints}
        # The same weights saved twice are one policy: the first to save them made them.
        self.by_weights = {row["weights_hash"]: row for row in reversed(checkpoints)}
        columns = ["name", "version", "kind", "snapshot", "scorer", "n_rows", "run_id", "recipe"]
        rows = store.read("datasets", columns).to_pylist()
        self.datasets = {f"{row['name']}@{row['version']}": row for row in rows}
        self.snapshots = {row["name"]: row for row in store.read("snapshots").to_pylist()}
        self._shown: set[tuple[str, str]] = set()

    def first_time(self, kind: str, id: str) -> bool:
        new = (kind, id) not in self._shown
        self._shown.add((kind, id))
        return new


def _checkpoint(view: _View, row: dict[str, Any]) -> Node:
    label = f"step {row['step']}, weights {_short(row['weights_hash'])}"
    node = Node("checkpoint", row["checkpoint_id"], label)
    if view.first_time("checkpoint", row["checkpoint_id"]):
        node.children.append(_run(view, row["run_id"], row))
    return node


def _run(view: _View, run_id: str, checkpoint: dict[str, Any] | None = None) -> Node:
    run = view.runs.get(run_id)
    if run is None:
        return Node("run", run_id, "not in this store")
    node = Node("run", run_id, f"{run['kind']}, {run['status']}, started {run['started_at']:%Y-%m-%d %H:%M}")
    if not view.first_time("run", run_id):
        node.label += " (see above)"
        return node
    datasets = _listed(run["config"].get("dataset"))
    if checkpoint and checkpoint["dataset"]:
        datasets += [name for name in _listed(checkpoint["dataset"]) if name not in datasets]
    datasets += [name for name, row in view.datasets.items() if row["run_id"] == run_id and name not in datasets]
    node.children += [_dataset(view, name) for name in datasets]
    base = run["config"].get("model_hash") or (checkpoint or {}).get("parent_hash")
    if base:
        node.children.append(_policy(view, base, "base model"))
    own = view.store.read("rollouts", _COLUMNS, filter=f"run_id = {quote(run_id)}")
    node.children += _rollouts(view, own)
    replayed = run["config"].get("replay_of")
    node.children += _batches(view, run_id, replayed, checkpoint["step"] if checkpoint else None)
    if replayed:
        node.children.append(_run(view, replayed))
    return node


def _batches(view: _View, run_id: str, replayed: str | None, up_to: int | None) -> list[Node]:
    """What the run's steps trained on, and where that is of other runs, who collected it."""
    planned = planned_rollouts(view.store, run_id, replayed, up_to)
    if not planned.num_rows:
        return []
    steps = sorted(set(planned["step"].to_pylist()))
    node = Node("batches", run_id, f"{len(steps)} step{'' if len(steps) == 1 else 's'}, {summed(planned)}")
    for first, last in [(step, step) for step in steps] if view.rollouts else step_ranges(planned):
        some = planned.filter(pc.and_(pc.greater_equal(planned["step"], first), pc.less_equal(planned["step"], last)))
        batch = Node("batch", f"step {first}" if first == last else f"steps {first} to {last}", summed(some))
        batch.rollouts = some.to_pylist() if view.rollouts else []
        node.children.append(batch)
    others = planned.filter(pc.not_equal(planned["run_id"], replayed or run_id))
    return [node, *_rollouts(view, others)]


def _dataset(view: _View, name: str) -> Node:
    row = view.datasets.get(name)
    if row is None:
        return Node("dataset", name, "not in this store")
    node = Node("dataset", name, f"{row['kind']}, {row['n_rows']} rows, scored by {row['scorer']}")
    if view.first_time("dataset", name):
        used = _used_by_dataset(view.store, row)
        label = _snapshot_label(view, row["snapshot"])
        node.children.append(Node("snapshot", row["snapshot"], label, _rollouts(view, used)))
    else:
        node.label += " (see above)"
    return node


def _snapshot_label(view: _View, name: str) -> str:
    row = view.snapshots.get(name)
    if row is None:
        return "not in this store"
    return f"taken {row['created_at']:%Y-%m-%d %H:%M}" + (f", {row['note']}" if row["note"] else "")


def _rollouts(view: _View, rollouts: pa.Table) -> list[Node]:
    """One node per collecting run and policy, each with the policy under it."""
    if not rollouts.num_rows:
        return []
    keys = ["run_id", "policy_id"]
    grouped = rollouts.group_by(keys).aggregate(
        [("rollout_id", "count"), ("reward", "mean"), ("policy_version", "min"), ("policy_version", "max"), ("engine", "min")]
    )  # fmt: skip
    nodes = []
    for row in grouped.sort_by([(key, "ascending") for key in keys]).to_pylist():
        mean = "no reward" if row["reward_mean"] is None else f"mean reward {row['reward_mean']:.3f}"
        run = view.runs.get(row["run_id"])
        by = f"{run['kind']} run {row['run_id']}" if run else f"run {row['run_id']}"
        count = row["rollout_id_count"]
        node = Node("rollouts", row["run_id"], f"{count} rollout{'' if count == 1 else 's'} of {by}, {mean}")
        if row["policy_id"] is not None:
            versions = (row["policy_version_min"], row["policy_version_max"])
            node.children.append(_policy(view, row["policy_id"], row["engine_min"] or "policy", versions))
        nodes.append(node)
    return nodes


def _policy(view: _View, policy_id: str, what: str, versions: tuple[int | None, int | None] = (None, None)) -> Node:
    """A policy and, when its weights are a checkpoint's or an online run's, where they came from."""
    checkpoint = view.by_weights.get(policy_id)
    if checkpoint:
        return Node("policy", policy_id, f"{what}, weights {_short(policy_id)}", [_checkpoint(view, checkpoint)])
    # A scripted or imported policy may happen to be called like some run; only online runs sample under their own id.
    if view.runs.get(policy_id, {}).get("kind") == "grpo":
        first, last = versions
        span = "" if first is None else f", version {first}" if first == last else f", versions {first} to {last}"
        return Node("policy", policy_id, f"{what}, weights of the online run{span}", [_run(view, policy_id)])
    return Node("policy", policy_id, f"{what} {_short(policy_id)}")


def _one_rollout(view: _View, row: dict[str, Any]) -> Node:
    reward = "no reward" if row["reward"] is None else f"reward {row['reward']:g}"
    node = Node("rollouts", row["rollout_id"], f"one rollout of run {row['run_id']}, {row['status']}, {reward}")
    if row["policy_id"] is not None:
        version = row["policy_version"]
        node.children.append(_policy(view, row["policy_id"], row["engine"] or "policy", (version, version)))
    return node


def _used_by_dataset(store: LanceStore, row: dict[str, Any]) -> pa.Table:
    """The rollouts a dataset version refers to; for a set of prompts, those of its tasks that its snapshot holds, of the runs it was built from."""
    where = f"name = {quote(row['name'])} AND version = {row['version']}"
    references = store.read("datasets", ["rows"], filter=where)["rows"].combine_chunks().flatten()
    rollout_ids, task_ids = (pc.struct_field(references, name) for name in ("rollout_id", "task_id"))
    rollouts = _read(store, row["snapshot"])
    if rollout_ids.null_count < len(rollout_ids):
        return rollouts.filter(pc.is_in(rollouts["rollout_id"], value_set=rollout_ids.drop_null()))
    runs = json.loads(row["recipe"] or "{}").get("runs")
    if runs:
        rollouts = rollouts.filter(pc.is_in(rollouts["run_id"], value_set=pa.array(runs)))
    return rollouts.filter(pc.is_in(rollouts["task_id"], value_set=task_ids.drop_null()))


def _read(store: LanceStore, snapshot: str) -> pa.Table:
    try:
        return store.read("rollouts", _COLUMNS, at=snapshot)
    except VersionNotFound:
        return store.read("rollouts", _COLUMNS)


def _listed(value: Any) -> list[str]:
    # A checkpoint of a run over several datasets may keep their names as a JSON list.
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    return [value] if isinstance(value, str) else list(value or [])


def _short(hash: str) -> str:
    return hash if len(hash) <= 16 else hash[:12]
