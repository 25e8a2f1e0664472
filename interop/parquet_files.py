"""Parquet files, a record a row, read and written in bounded memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base.errors import FormatError, one_line
from .lines import Line, Quarantine, partial_path
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
        file = pq.ParquetFile(path.absolute(), pre_buffer=False)  # Arrow takes `a:b` for a URI
    except pa.ArrowException as error:
        raise FormatError(f"{path} is not a Parquet file: {error}.", "Check the file and the format's name.") from error
    with file:
        number, total = 0, max(file.metadata.num_rows, 1)
        for batch in _batches(file, path):
            for row, reason in _rows(batch):
                number += 1
                # The quarantine gets the row's number alone.
                line = Line(number, "", False, size * number // total, path)
                if row is not None:
                    yield line, row
                elif quarantine is not None:
                    quarantine.add(line, reason)
            if on_progress:
                on_progress(size * number // total)


def _batches(file: Any, path: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=_ROWS_AT_ONCE)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{path} is damaged: {one_line(error)}.",
            "The rows before the damage were read; get the file anew for the rest.",
        ) from error


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Row | None, str]]:
    """Each row as Python values, or None and the reason: a time of the year 290000, for one, is none."""
    try:
        yield from ((row, "") for row in batch.to_pylist())
        return
    except MemoryError:
        raise
    except Exception:
        singles = [batch.slice(number, 1) for number in range(batch.num_rows)]
    for single in singles:
        try:
            [row] = single.to_pylist()
        except Exception as error:
            yield None, one_line(error)
        else:
            yield row, ""


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
    partial = partial_path(path)
    try:
        with pq.ParquetWriter(partial.absolute(), schema, compression="zstd") as file:
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
