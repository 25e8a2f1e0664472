"""Writing rows into tables. Only for this package: rollouts enter through `RolloutWriter`, which checks them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ..base.errors import SchemaMismatch, WriteConflict
from . import hashes
from .lance_store import LanceStore, lacking_columns
from .tables import TABLES

AnyRows = pa.Table | pa.RecordBatch | Iterable[Mapping[str, Any]]


def append_rows(
    store: LanceStore, table: str, rows: AnyRows, before_commit: Callable[[], None] | None = None
) -> int:  # fmt: skip
    """Appends rows in one commit and returns how many. Missing columns become null; unknown ones raise SchemaMismatch.

    `before_commit` is called when the files are written and only the commit is left; nothing is appended if it raises.
    """
    import lance

    _refuse_the_past(store, table)
    data = to_arrow(table, rows)
    if not data.num_rows:
        return 0
    dataset = _opened(store, table)
    fragments = lance.fragment.write_fragments(data, dataset, mode="append", data_storage_version="2.2")
    if before_commit:
        before_commit()
    lance.LanceDataset.commit(dataset, lance.LanceOperation.Append(fragments), read_version=dataset.version)
    hashes.record(store, table, [file.path for fragment in fragments for file in fragment.files])
    return data.num_rows


def insert_if_absent(store: LanceStore, table: str, rows: AnyRows) -> int:
    """Inserts the rows whose key is not there yet and returns how many; replaying it changes nothing."""
    _refuse_the_past(store, table)
    data = _first_of_each_key(to_arrow(table, rows), TABLES[table].key)
    if not data.num_rows:
        return 0
    dataset = _opened(store, table)
    last = hashes.last_fragment(dataset)
    merge = dataset.merge_insert(TABLES[table].key).use_index(False)
    inserted = merge.when_not_matched_insert_all().execute(data)["num_inserted_rows"]
    if inserted:
        hashes.record_new(store, table, store.lance_dataset(table), last)
    return inserted


def _opened(store: LanceStore, table: str) -> Any:
    """The table, with all its columns: an older version of rollhouse may have made it without some."""
    dataset = store.lance_dataset(table)
    if not lacking_columns(table, dataset):
        return dataset
    store.create_table(TABLES[table])
    return store.lance_dataset(table)


def to_arrow(table: str, rows: AnyRows) -> pa.Table:
    """Rows in the table's schema. Raises SchemaMismatch naming the column that does not fit."""
    if isinstance(rows, pa.RecordBatch):
        rows = pa.Table.from_batches([rows])
    if isinstance(rows, pa.Table):
        return _conform(rows, table, TABLES[table].schema)
    return pa.Table.from_batches([TABLES[table].batch_of_rows(rows)])


def _refuse_the_past(store: LanceStore, table: str) -> None:
    if store.at is not None:
        raise WriteConflict(
            f"Table {table} cannot be written in the store as it was at {store.at}.", "Open the store without `at`."
        )


def _conform(data: pa.Table, table: str, schema: pa.Schema) -> pa.Table:
    if data.schema.equals(schema, check_metadata=True):
        return data
    unknown = sorted(set(data.column_names) - set(schema.names))
    if unknown:
        raise SchemaMismatch(f"Table {table} has no column {unknown[0]!r}.", "See docs/store.md for its columns.")
    columns = [
        data[field.name].cast(field.type) if field.name in data.column_names else pa.nulls(data.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _first_of_each_key(data: pa.Table, key: str) -> pa.Table:
    # merge_insert inserts duplicates inside one source batch, primary key or not.
    codes = data[key].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.unique(codes, return_index=True)[1]
    return data if len(first) == data.num_rows else data.take(pa.array(np.sort(first)))
