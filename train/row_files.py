"""Tokenised rows in memory-mapped Arrow files for a trainer: memory does not grow with the dataset."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base.errors import ConfigError
from ..store.ids import hash_id

_ROWS_A_BATCH = 64


def write_rows(
    rows: Iterable[tuple[str, Mapping[str, list[int]]]], folder: Path, columns: tuple[str, ...], share: float
) -> tuple[Any, Any | None]:
    """Writes the rows and returns the Hugging Face datasets for training and validation, the second None without a share.

    Args:
        rows: (task_id, column → integers). The side of a row depends on its task_id alone.
        folder: Folder for the files; it must exist as long as the datasets are used.
        columns: The columns of the files, each a list of int32.
        share: Share of the tasks to validate on.

    Raises:
        ConfigError: A share is given and one side is empty.
    """
    from datasets import Dataset

    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.list_(pa.int32())) for name in columns])
    files = [folder / "train.arrow", folder / "validation.arrow"]
    counts, tasks = [0, 0], set()
    waiting: list[list[Mapping[str, list[int]]]] = [[], []]
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_stream(str(file), schema)) for file in files]
        for task_id, row in rows:
            side = int(is_held_out(task_id, share))
            tasks.add(task_id)
            counts[side] += 1
            waiting[side].append(row)
            if len(waiting[side]) == _ROWS_A_BATCH:
                _write(writers[side], waiting[side], schema)
        for writer, some in zip(writers, waiting, strict=True):
            _write(writer, some, schema)
    if share and not all(counts):
        raise ConfigError(
            f"validation.share={share:g} of {len(tasks)} tasks leaves {counts[0]} rows to train on and {counts[1]} to validate on.",
            "Set another share, or build a dataset of more tasks.",
        )
    train, validation = (Dataset.from_file(str(file)) for file in files)
    return train, validation if share else None


def is_held_out(task_id: str, share: float) -> bool:
    """Whether a task's rows are for validation. It depends on the task_id alone."""
    return int(hash_id("validation", task_id)[:12], 16) / 16**12 < share


def _write(writer: Any, rows: list[Mapping[str, list[int]]], schema: pa.Schema) -> None:
    if rows:
        writer.write_batch(pa.RecordBatch.from_pylist([dict(row) for row in rows], schema))
        rows.clear()
