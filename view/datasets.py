"""The datasets pages: every version, one version with its rows and what it leaves out, and two versions against each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import ConfigError, StoreNotFound
from .query import Query, one_of, whole
from .reader import Reader
from .rollout import parsed

PAGE = 100
_DIFFERING = 500  # rows of a diff that are sent
_NARROW = "name, version, kind, n_rows, snapshot, scorer, fingerprint, run_id, created_at, coalesce(len(dropped), 0) AS n_dropped"


def listed(reader: Reader) -> list[dict[str, Any]]:
    """Every version, newest first: label (NAME@VERSION), kind, n_rows, n_dropped, snapshot, scorer, run_id, created_at, and `trained`, the checkpoints saved by runs on it."""
    rows = reader.rows(f"SELECT {_NARROW} FROM datasets ORDER BY created_at DESC, name, version DESC")
    counted = reader.rows("SELECT dataset, count(*) AS n FROM checkpoints WHERE dataset IS NOT NULL GROUP BY dataset")
    trained = {row["dataset"]: row["n"] for row in counted}
    for row in rows:
        row["label"] = f"{row['name']}@{row['version']}"
        row["trained"] = trained.get(row["label"], 0)
    return rows


def one(reader: Reader, label: str, query: Query) -> dict[str, Any]:
    """One version and a page of its rows, or with `list=dropped` of what it leaves out (with `reason`, for that reason alone), from `offset` on.

    Returns:
        The columns of `listed`, recipe, counts, n_flagged, versions (labels of the same name and kind, oldest first), checkpoints, reasons ([{reason, n}], commonest first), and
        rows ([{row, weight, chosen, rejected, task}]; chosen is the rollout of a demonstration too, null in prompt sets) or dropped ([{id, reason, rollout, task}]).
        A rollout is {rollout_id, run_id, step, status, reward, passed}; null where the store does not hold it. A task is {task_id, environment, category}.
    """
    name, version = _split(label)
    known = {"name": name, "version": version}
    where = "FROM datasets WHERE name = $name AND version = $version"
    found = reader.row(f"SELECT {_NARROW}, recipe, counts, len(flagged) AS n_flagged {where}", **known)
    if found is None:
        raise StoreNotFound(f"There is no dataset {label!r} in {reader.store.uri}.", "The datasets page lists them.")
    versions = "SELECT version FROM datasets WHERE name = $name AND kind = $kind ORDER BY version"
    checkpoints = "SELECT checkpoint_id, run_id, step FROM checkpoints WHERE dataset = $label ORDER BY run_id, step"
    reasons = f"SELECT entry.reason AS reason, count(*) AS n FROM (SELECT unnest(dropped) AS entry {where}) GROUP BY 1 ORDER BY n DESC, reason"
    page = _dropped(reader, where, known, query) if one_of(query, "list") == "dropped" else _rows(reader, where, known, query)  # fmt: skip
    return found | {
        "label": label,
        "recipe": parsed(found["recipe"]),
        "counts": parsed(found["counts"]),
        "versions": [f"{name}@{row['version']}" for row in reader.rows(versions, name=name, kind=found["kind"])],
        "checkpoints": reader.rows(checkpoints, label=label),
        "reasons": reader.rows(reasons, **known),
        **page,
    }


def difference(reader: Reader, label: str, other: str) -> dict[str, Any]:
    """How two versions of one kind differ, as in `rollhouse dataset diff`, and the first 500 rows that only one has (`rows`; `n_rows` in all). Raises ConfigError for two kinds."""
    from ..transform.explain import diff, diff_rows
    from ..transform.versions import get_dataset

    left, right = get_dataset(reader.store, label), get_dataset(reader.store, other)
    found, rows = diff(left, right), diff_rows(left, right)
    return found | {"left": left.label, "right": right.label, "rows": rows[:_DIFFERING], "n_rows": len(rows)}


def _split(label: str) -> tuple[str, int]:
    name, at, version = label.rpartition("@")
    if not at or not version.isdigit():
        raise ConfigError(f"{label!r} is not the name of a dataset version.", "Write NAME@NUMBER.")
    return name, int(version)


def _rows(reader: Reader, where: str, known: dict[str, Any], query: Query) -> dict[str, Any]:
    offset, limit = whole(query, "offset", 0), min(whole(query, "limit", PAGE), PAGE)
    text = f"SELECT list_filter(rows, lambda x: x.row >= $low AND x.row < $high) AS page {where}"
    references = (reader.row(text, **known, low=offset, high=offset + limit) or {})["page"] or []
    rollouts, tasks = _rollouts(reader, references), _tasks(reader, references)
    rows: dict[int, dict[str, Any]] = {}
    for entry in references:
        row = rows.setdefault(entry["row"], {"row": entry["row"], "weight": entry["weight"], "chosen": None, "rejected": None, "task": tasks.get(entry["task_id"])})  # fmt: skip
        if entry["rollout_id"]:
            row["rejected" if entry["role"] == "rejected" else "chosen"] = rollouts.get(entry["rollout_id"], {"rollout_id": entry["rollout_id"], "status": None})  # fmt: skip
    return {"rows": [rows[at] for at in sorted(rows)], "offset": offset}


def _dropped(reader: Reader, where: str, known: dict[str, Any], query: Query) -> dict[str, Any]:
    reason, offset = one_of(query, "reason"), whole(query, "offset", 0)
    chosen = "WHERE entry.reason = $reason" if reason else ""
    text = f"SELECT entry.id AS id, entry.reason AS reason FROM (SELECT unnest(dropped) AS entry {where}) {chosen} LIMIT {PAGE} OFFSET {offset}"
    rows = reader.rows(text, **known, **({"reason": reason} if reason else {}))
    found = [{"rollout_id": row["id"], "task_id": row["id"]} for row in rows]
    rollouts = _rollouts(reader, found)
    tasks = _tasks(reader, [*found, *({"task_id": row["task_id"]} for row in rollouts.values())])
    for row in rows:
        row["rollout"] = rollouts.get(row["id"])
        row["task"] = tasks.get((row["rollout"] or {}).get("task_id") or row["id"])
    return {"dropped": rows, "offset": offset}


def _rollouts(reader: Reader, references: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    ids = sorted({entry["rollout_id"] for entry in references if entry["rollout_id"]})
    columns = ["rollout_id", "run_id", "step", "task_id", "status", "reward", "passed"]
    return {row["rollout_id"]: row for row in reader.rollouts(ids, columns)}


def _tasks(reader: Reader, references: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    ids = sorted({entry["task_id"] for entry in references if entry["task_id"]})
    if not ids:
        return {}
    query = "SELECT task_id, environment, category FROM tasks WHERE list_contains($ids::VARCHAR[], task_id)"
    return {row["task_id"]: row for row in reader.rows(query, ids=ids)}
