"""Files of math tasks, read row by row: JSON lines and Parquet, from a path or from the hub."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...base.errors import FormatError
from ...store.task import Task
from ..task_files import task_files
from .rows import shape_of, task_of

_ROWS_AT_ONCE = 1024


def read_tasks(tasks: str | Path, split: str = "train", system_prompt: str | None = None) -> Iterator[Task]:
    """The tasks of a file or of a data set of the hub, in order; a row that repeats an earlier one is left out.

    Args:
        tasks: A JSONL or Parquet file, or `hf:OWNER/NAME[@REVISION][:SPLIT]`.
        split: Split of rows without one; a split in the name of a hub file takes precedence.
        system_prompt: Put before the question of rows without messages of their own.

    Raises ConfigError for an invalid name, and FormatError with file and row for a row that is not a task.
    """
    seen: set[bytes] = set()
    for file in task_files(tasks, split):
        shape = None
        for place, row in _rows(file.path):
            try:
                shape = shape or shape_of(row)
                task = task_of(row, shape, file.split, system_prompt)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
                raise FormatError(
                    f"{place} is not a math task: {reason}.",
                    "docs/math.md lists the shapes a row may have; all rows of a file have one.",
                ) from error
            prompt = [message.to_openai() for message in task.messages]
            key = hashlib.blake2b(json.dumps([prompt, task.ground_truth]).encode(), digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                yield task


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row and the words for where it stands."""
    rows: Iterable[tuple[str, Any]] = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    for place, row in rows:
        if not isinstance(row, dict):
            raise FormatError(f"{place} is not a JSON object.", "Correct or remove it.")
        yield place, row


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"Line {number} of {path}"
                try:
                    row = json.loads(line)
                    # JSON can escape half a character (a lone surrogate), which no table can hold and no tokenizer can read.
                    json.dumps(row, ensure_ascii=False).encode()
                except (ValueError, RecursionError) as error:
                    raise FormatError(f"{place} is not JSON: {error}.", "Each line is one JSON object; correct or remove it.") from error  # fmt: skip
                yield place, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path.absolute()) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    # Times, bytes and the like are not JSON, the form of a task's other fields.
                    yield f"Row {number} of {path}", json.loads(json.dumps(row, default=str))
    except pa.ArrowException as error:
        raise FormatError(f"{path} cannot be read as Parquet after row {number}: {error}.", "Fetch or write it again.") from error  # fmt: skip
