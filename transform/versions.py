"""Versions of datasets: ordered references into a snapshot, the recipe that chose them, and why the other inputs were left out."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256
from typing import Any

import polars as pl
import pyarrow as pa

from ..base.errors import ConfigError, StoreNotFound
from ..store.appending import insert_if_absent
from ..store.ids import canonical_json, hash_id
from ..store.lance_store import LanceStore, quote
from ..store.runs import start_run
from ..store.tables import DATASETS

# The tables whose versions are part of a fingerprint.
SOURCES = ("rollouts", "prompts", "prompt_tokens", "tasks", "scores")
CODE_VERSION = "2"
_LISTS = {"rows": "references", "dropped": "drops", "flagged": "flags"}
_REFERENCE = {"rollout_id": pl.String, "task_id": pl.String, "branch": pl.Int32, "weight": pl.Float32, "role": pl.String, "row": pl.Int32}  # fmt: skip


@dataclass(frozen=True)
class DatasetVersion:
    """The record of one version of a training set.

    Attributes:
        version: From 1; 0 before the version is stored.
        kind: sft, dpo or grpo.
        snapshot: Name of the snapshot it was built from.
        scorer: Whose rewards counted: `collected`, NAME or NAME@VERSION.
        recipe: Every option it was built with, by name.
        fingerprint: Hash of kind, versions of the source tables, recipe and references.
        references: In training order, one row per rollout or task with the columns of _REFERENCE; a pair is two references with
            the same `row`.
        drops: (id, reason) of every input that was left out; the id is a rollout's or, in prompt sets, a task's.
        flags: (id, reference, method, score) of tasks that are also in an evaluation set, left out or not.
        counts: inputs, rows, tasks, dropped (reason to count), and what the kind adds.
        code_version: Version of the building code; it does not enter the fingerprint.
        run_id: The run of kind `build` that made it; None before the version is stored.
        existed: Whether building returned this version instead of making it.
    """

    name: str
    kind: str
    snapshot: str
    scorer: str
    recipe: dict[str, Any]
    fingerprint: str
    references: pl.DataFrame = field(compare=False)
    drops: pl.DataFrame = field(compare=False)
    flags: pl.DataFrame = field(compare=False)
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
        """Number of dataset rows; a pair counts once."""
        return int(self.references["row"][-1]) + 1 if self.references.height else 0


def fingerprint(store: LanceStore, kind: str, snapshot: str, recipe: dict[str, Any], references: pl.DataFrame) -> str:
    """Hash that the same recipe on the same snapshot gives on any machine."""
    versions = store.versions(snapshot)
    digest = sha256()
    frame = references.select(pl.col(name).cast(type) for name, type in _REFERENCE.items())
    for name in ("rollout_id", "task_id", "role"):
        digest.update(frame.select(pl.col(name).fill_null("").str.join("\n")).item().encode() + b"\0")
    for name, none in (("branch", -1), ("weight", float("nan")), ("row", -1)):
        digest.update(
            frame[name].fill_null(none).to_numpy().astype(frame[name].to_numpy().dtype.newbyteorder("<")).tobytes()
        )
    return hash_id(kind, {table: versions[table] for table in SOURCES}, recipe, digest.hexdigest())


def keep_version(store: LanceStore, dataset: DatasetVersion) -> DatasetVersion:
    """The stored version of that name with this fingerprint, if there is one; else stores this one as the next version."""
    # References make up most of a version, so they are read for the matching one only.
    there = _read(store, dataset.name, columns=["version", "fingerprint"])
    for known in there:
        if known["fingerprint"] == dataset.fingerprint:
            return replace(get_dataset(store, f"{dataset.name}@{known['version']}"), existed=True)
    store.create_table(DATASETS)  # adds columns that the table of an older release lacks
    config = {"dataset_name": dataset.name, "snapshot": dataset.snapshot, "recipe": dataset.recipe}
    with start_run(store, "build", config=config) as run:
        while True:
            number = 1 + max((row["version"] for row in there), default=0)
            kept = replace(dataset, version=number, run_id=run.run_id, created_at=datetime.now(UTC))
            # Another build may have taken the number meanwhile.
            if insert_if_absent(store, "datasets", _to_table(kept)):
                break
            there = _read(store, dataset.name, columns=["version"])
        run.finish({"dataset": kept.label, **kept.counts})
    return kept


def get_dataset(store: LanceStore, label: str) -> DatasetVersion:
    """The record of `NAME@VERSION`, or of the latest version of `NAME`.

    Raises:
        StoreNotFound: The store holds no such dataset; the message names similar ones.
        ConfigError: The part after `@` is not a number.
    """
    name, at, version = label.partition("@")
    if at and not version.isdigit():
        raise ConfigError(f"{label!r} is not the name of a dataset version.", "Write NAME or NAME@NUMBER.")
    versions = [row["version"] for row in _read(store, name, columns=["version"])]
    wanted = int(version) if at else max(versions, default=0)
    if wanted not in versions:
        known = [f"{row['name']}@{row['version']}" for row in _read(store, columns=["name", "version"])]
        near = get_close_matches(label, known, n=1) or sorted(known)[:5]
        advice = f"Known datasets: {', '.join(near)}." if near else "Build one with `rollhouse dataset build`."
        raise StoreNotFound(f"There is no dataset {label!r} in {store.uri}.", advice)
    where = f"name = {quote(name)} and version = {wanted}"
    return _from_table(store.read("datasets", filter=where))


def list_datasets(store: LanceStore) -> list[dict[str, Any]]:
    """Every version, ordered by name and version: dataset, kind, rows, snapshot, scorer, fingerprint, run_id, created_at."""
    columns = ["name", "version", "kind", "n_rows", "snapshot", "scorer", "fingerprint", "run_id", "created_at"]
    rows = sorted(_read(store, columns=columns), key=lambda row: (row["name"], row["version"]))
    return [
        {"dataset": f"{row['name']}@{row['version']}", "kind": row["kind"], "rows": row["n_rows"]}
        | {name: row[name] for name in columns[4:]}
        for row in rows
    ]


def _read(store: LanceStore, name: str | None = None, columns: list[str] | None = None) -> list[dict[str, Any]]:
    return store.read("datasets", columns, None if name is None else f"name = {quote(name)}").to_pylist()


def _to_table(dataset: DatasetVersion) -> pa.Table:
    scalars = {
        "row_id": hash_id(dataset.name, dataset.version),
        "name": dataset.name,
        "version": dataset.version,
        "kind": dataset.kind,
        "snapshot": dataset.snapshot,
        "scorer": dataset.scorer,
        "recipe": canonical_json(dataset.recipe),
        "fingerprint": dataset.fingerprint,
        "code_version": dataset.code_version,
        "n_rows": dataset.n_rows,
        "counts": json.dumps(dataset.counts),
        "run_id": dataset.run_id,
        "created_at": dataset.created_at,
    }
    schema = DATASETS.schema
    columns = {name: pa.array([value], schema.field(name).type) for name, value in scalars.items()}
    for name, attribute in _LISTS.items():
        columns[name] = _one_list(getattr(dataset, attribute), schema.field(name).type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _one_list(frame: pl.DataFrame, type: pa.ListType) -> pa.ListArray:
    """All rows of a frame as the only entry of a list column, without making Python objects of them."""
    fields = list(type.value_type)
    table = frame.to_arrow().combine_chunks()
    arrays = [pa.concat_arrays([*table[each.name].cast(each.type).chunks, pa.array([], each.type)]) for each in fields]
    return pa.ListArray.from_arrays(
        pa.array([0, frame.height], pa.int32()), pa.StructArray.from_arrays(arrays, fields=fields)
    )


def _from_table(table: pa.Table) -> DatasetVersion:
    row = table.drop_columns(["row_id", "n_rows", *_LISTS]).to_pylist()[0]
    lists: dict[str, Any] = {attribute: _frame_of(table[name]) for name, attribute in _LISTS.items()}
    return DatasetVersion(**row | {"recipe": json.loads(row["recipe"]), "counts": json.loads(row["counts"])}, **lists)


def _frame_of(column: pa.ChunkedArray) -> pl.DataFrame:
    structs = column.combine_chunks().flatten()
    frame = pl.from_arrow(pa.Table.from_batches([pa.RecordBatch.from_struct_array(structs)]))
    assert isinstance(frame, pl.DataFrame)
    return frame
