"""Parquet files, a record a row, read and written in bounded memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base.errors import FormatError
from .lines import Line, Quarantine
from .rollout import Row

_ROWS_AT_ONCE = 64
_GROUP_BYTES = 32 << 20


def read_parquet(
    path: Path, quarantine: Quarantine | None, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The rows of a file; a line's number is the row's, from 1. Raises FormatError when it is not Parquet.

    Args:
        on_progress: Gets the share of the file that was read, in bytes.
    """
    import pyarrow.parquet as pq

    size = path.stat().st_size
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except pa.ArrowException as error:
        raise FormatError(f"{path} is not a Parquet file: {error}.", "Check the file and the format's name.") from error
    with file:
        number, total = 0, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                # The text is for the quarantine; a row's number says enough.
                yield Line(number, "", False, size * number // total, path), row
            if on_progress:
                on_progress(size * number // total)


def read_unfilled(
    path: Path, quarantine: Quarantine | None, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The rows as `read_parquet` gives them, without the nulls inside their columns: a struct has the keys of every row's object, and those that a
    row's object lacks are null."""
    for line, row in read_parquet(path, quarantine, on_progress):
        yield line, {name: _unfilled(value) for name, value in row.items()}


def _unfilled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unfilled(inner) for name, inner in value.items() if inner is not None}
    return [_unfilled(inner) for inner in value] if isinstance(value, list) else value


def write_parquet(rows: Iterable[Row], schema: pa.Schema, path: Path) -> None:
    """Writes rows in row groups of about 32 MB; the file has its name only once it is complete."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as file:
            for table in _groups(rows, schema):
                file.write_table(table)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _groups(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.Table]:
    waiting: list[Row] = []
    batches: list[pa.RecordBatch] = []
    size = 0
    for row in rows:
        waiting.append(row)
        if len(waiting) == _ROWS_AT_ONCE:
            batches.append(pa.RecordBatch.from_pylist(waiting, schema=schema))
            size += batches[-1].nbytes
            waiting = []
        if size >= _GROUP_BYTES:
            yield pa.Table.from_batches(batches, schema=schema)
            batches, size = [], 0
    batches.append(pa.RecordBatch.from_pylist(waiting, schema=schema))
    yield pa.Table.from_batches(batches, schema=schema)
