"""Versions of datasets: ordered references into a snapshot, the recipe that chose them, and why the rest was left out."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

from ..store.errors import ConfigError, StoreNotFound
from ..store.house import House, quote
from ..store.ids import canonical_json, hash_id
from ..store.runs import start_run

# The tables that decide what a dataset is made of.
SOURCES = ("rollouts", "prompts", "prompt_tokens", "tasks", "scores")
CODE_VERSION = "1"


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a training set.

    Attributes:
        version: From 1; 0 before it is kept.
        kind: sft, dpo or grpo.
        recipe: The options it was built with.
        fingerprint: Hash of kind, source versions, recipe and references.
        rows: References in order: rollout_id, task_id, branch, weight, role, row. A pair is two references of one `row`.
        dropped: (id, reason) of every input that did not make it; the id is a rollout's or, in prompt sets, a task's.
        counts: inputs, rows, tasks, dropped (reason to count), and what the kind adds.
        existed: Whether building it found this version instead of making it.
    """

    name: str
    kind: str
    snapshot: str
    scorer: str
    recipe: dict[str, Any]
    fingerprint: str
    rows: list[dict[str, Any]]
    dropped: list[dict[str, str]]
    counts: dict[str, Any]
    version: int = 0
    code_version: str = CODE_VERSION
    run_id: str | None = None
    created_at: datetime | None = None
    existed: bool = field(default=False, compare=False)

    @property
    def label(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @property
    def n_rows(self) -> int:
        """Dataset rows; a pair is one."""
        return self.rows[-1]["row"] + 1 if self.rows else 0


def fingerprint(house: House, kind: str, snapshot: str, recipe: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The same recipe on the same snapshot gives the same one on any machine."""
    versions = house.versions(snapshot)
    return hash_id(kind, {table: versions[table] for table in SOURCES}, recipe, rows)


def keep_version(house: House, dataset: DatasetVersion) -> DatasetVersion:
    """The version of that name with this fingerprint, if there is one; else the next version, written now."""
    # The references of a version are read only where they are wanted: they are most of it.
    for known in _read(house, dataset.name, columns=["version", "fingerprint"]):
        if known["fingerprint"] == dataset.fingerprint:
            return replace(get_dataset(house, f"{dataset.name}@{known['version']}"), existed=True)
    config = {"dataset_name": dataset.name, "snapshot": dataset.snapshot, "recipe": dataset.recipe}
    with start_run(house, "build", config=config) as run:
        while True:
            number = 1 + max((row["version"] for row in _read(house, dataset.name, columns=["version"])), default=0)
            kept = replace(dataset, version=number, run_id=run.run_id, created_at=datetime.now(UTC))
            # Another build may have taken the number since.
            if house.insert_if_absent("datasets", [_to_row(kept)]):
                break
        run.finish({"dataset": kept.label, **kept.counts})
    return kept


def get_dataset(house: House, label: str) -> DatasetVersion:
    """The dataset `NAME@VERSION`, or the latest version of `NAME`. Raises StoreNotFound naming near ones."""
    name, at, version = label.partition("@")
    if at and not version.isdigit():
        raise ConfigError(f"{label!r} does not name a dataset version.", "Write NAME or NAME@NUMBER.")
    versions = [row["version"] for row in _read(house, name, columns=["version"])]
    wanted = int(version) if at else max(versions, default=0)
    if wanted not in versions:
        known = [f"{row['name']}@{row['version']}" for row in _read(house, columns=["name", "version"])]
        near = get_close_matches(label, known, n=1) or sorted(known)[:5]
        advice = f"There is {', '.join(near)}." if near else "`rollhouse dataset build` makes one."
        raise StoreNotFound(f"There is no dataset {label!r} in {house.uri}.", advice)
    where = f"name = {quote(name)} and version = {wanted}"
    return _from_row(house.read("datasets", filter=where).to_pylist()[0])


def list_datasets(house: House) -> list[dict[str, Any]]:
    """Every version: dataset, kind, rows, snapshot, scorer, fingerprint, run_id, created_at, by name and version."""
    columns = ["name", "version", "kind", "n_rows", "snapshot", "scorer", "fingerprint", "run_id", "created_at"]
    rows = sorted(_read(house, columns=columns), key=lambda row: (row["name"], row["version"]))
    return [
        {"dataset": f"{row['name']}@{row['version']}", "kind": row["kind"], "rows": row["n_rows"]}
        | {name: row[name] for name in columns[4:]}
        for row in rows
    ]


def why(house: House, dataset: DatasetVersion, id: str) -> list[dict[str, Any]]:
    """What became of a rollout or task: one entry (id, in_dataset, row, role, reason) for each place it has in the version.

    Raises StoreNotFound when the snapshot does not hold the id.
    """
    found = [
        {"id": id, "in_dataset": True, "row": row["row"], "role": row["role"], "reason": "chosen"}
        for row in dataset.rows
        if id in (row["rollout_id"], row["task_id"])
    ]
    if found:
        return found
    left_out = [entry["reason"] for entry in dataset.dropped if entry["id"] == id]
    left_out = left_out or _reasons_of_task(house, dataset, id)
    if not left_out:
        _refuse_unknown(house, dataset, id)
        left_out = ["not among the runs, environments and policies the recipe names"]
    return [{"id": id, "in_dataset": False, "row": None, "role": None, "reason": reason} for reason in left_out]


def _reasons_of_task(house: House, dataset: DatasetVersion, task: str) -> list[str]:
    """The reasons of a task's rollouts, with how many each took."""
    mine = set(
        house.read("rollouts", ["rollout_id"], f"task_id = {quote(task)}", dataset.snapshot)["rollout_id"].to_pylist()
    )
    counts = Counter(entry["reason"] for entry in dataset.dropped if entry["id"] in mine)
    return [f"{reason} ({count} rollouts)" for reason, count in counts.most_common()]


def _refuse_unknown(house: House, dataset: DatasetVersion, id: str) -> None:
    for table, column in (("rollouts", "rollout_id"), ("tasks", "task_id")):
        if house.read(table, [column], f"{column} = {quote(id)}", dataset.snapshot).num_rows:
            return
    raise StoreNotFound(
        f"Snapshot {dataset.snapshot!r} of {dataset.label} holds no rollout or task {id!r}.", "Give the whole id."
    )


def _read(house: House, name: str | None = None, columns: list[str] | None = None) -> list[dict[str, Any]]:
    return house.read("datasets", columns, None if name is None else f"name = {quote(name)}").to_pylist()


def _to_row(dataset: DatasetVersion) -> dict[str, Any]:
    return {
        "row_id": hash_id(dataset.name, dataset.version),
        "name": dataset.name,
        "version": dataset.version,
        "kind": dataset.kind,
        "snapshot": dataset.snapshot,
        "scorer": dataset.scorer,
        "recipe": canonical_json(dataset.recipe),
        "fingerprint": dataset.fingerprint,
        "code_version": dataset.code_version,
        "rows": dataset.rows,
        "dropped": dataset.dropped,
        "n_rows": dataset.n_rows,
        "counts": json.dumps(dataset.counts),
        "run_id": dataset.run_id,
        "created_at": dataset.created_at,
    }


def _from_row(row: dict[str, Any]) -> DatasetVersion:
    values = {name: value for name, value in row.items() if name not in ("row_id", "n_rows")}
    return DatasetVersion(**values | {"recipe": json.loads(row["recipe"]), "counts": json.loads(row["counts"])})
