"""Files of math tasks, read row by row: JSON lines and Parquet, from a path or from the hub."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....store.errors import ConfigError, FormatError
from ...hub import hub_folder
from ...types import Task
from .rows import shape_of, task_of

HUB = "hf:"
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "test": "test"}  # fmt: skip
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class TasksFile:
    """A file and the split of its rows that name none."""

    path: Path
    split: str


def read_tasks(tasks: str | Path, split: str = "train", system_prompt: str | None = None) -> Iterator[Task]:
    """The tasks of a file or of a data set of the hub, in order; a row that repeats an earlier one is left out.

    Args:
        tasks: A JSONL or Parquet file, or `hf:OWNER/NAME[@REVISION][:SPLIT]`.
        split: Of rows that name none; a split that the name of a hub file says goes before it.
        system_prompt: Put before the question of rows without messages of their own.

    Raises ConfigError for a name that is none, FormatError naming file and row for a row that is no task.
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
                    f"{place} is no math task: {reason}.",
                    "docs/math.md lists the shapes a row may have; all rows of a file have one.",
                ) from error
            said = [message.to_openai() for message in task.messages]
            key = hashlib.blake2b(json.dumps([said, task.ground_truth]).encode(), digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                yield task


def tasks_sha256(tasks: str | Path) -> str:
    """Hash of the content of all files that `read_tasks` would read, for a run's configuration."""
    digest = hashlib.sha256()
    for file in task_files(tasks):
        with file.path.open("rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def task_files(tasks: str | Path, split: str = "train") -> list[TasksFile]:
    """The files that hold the tasks. Raises ConfigError when there are none."""
    if str(tasks).startswith(HUB):
        return _hub_files(str(tasks), split)
    path = Path(tasks)
    if not path.is_file():
        raise FormatError(f"There is no tasks file {path}.", "Check the path given with --tasks.")
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"The tasks file {path} is neither JSON lines nor Parquet.", f"Its name ends in {', '.join(_SUFFIXES)}.")  # fmt: skip
    return [TasksFile(path, split)]


def _hub_files(tasks: str, split: str) -> list[TasksFile]:
    match = re.fullmatch(r"hf:([^@:]+/[^@:]+)(?:@([^:]+))?(?::(.+))?", tasks)
    if match is None:
        raise ConfigError(f"{tasks!r} names no data set of the hub.", "Write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME:SPLIT.")  # fmt: skip
    name, revision, wanted = match.groups()
    folder = hub_folder(name, "dataset", revision)
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".jsonl", ".ndjson", ".parquet"))
    chosen = [path for path in found if wanted is None or _is_named(path.relative_to(folder), wanted)]
    # One folder is one configuration of a data set; what several hold is not to be mixed by accident.
    folders = sorted({path.parent.relative_to(folder).as_posix() for path in chosen})
    if len(folders) != 1:
        names = ", ".join(sorted({_stem(path.relative_to(folder)) for path in found})) or "none"
        problem = "has no such files" if not folders else "holds several data sets"
        raise ConfigError(f"{tasks} {problem}.", f"Name one of its parts after a colon: {names}.")
    return [TasksFile(path, _SPLITS.get(_stem(path).split("/")[-1], split)) for path in chosen]


def _stem(path: Path) -> str:
    """`main/test-00000-of-00001.parquet` → `main/test`."""
    return re.sub(r"[-.]\d+-of-\d+$", "", path.with_suffix("").as_posix())


def _is_named(path: Path, wanted: str) -> bool:
    stem = _stem(path)
    return wanted in (stem, stem.split("/")[-1], path.as_posix()) or stem.startswith(wanted + "/")


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
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    # Times, bytes and the like are no JSON, which is what a task's other fields are kept as.
                    yield f"Row {number} of {path}", json.loads(json.dumps(row, default=str))
    except pa.ArrowException as error:
        raise FormatError(f"{path} cannot be read as Parquet after row {number}: {error}.", "Fetch or write it again.") from error  # fmt: skip
