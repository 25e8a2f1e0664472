"""The beginning of a file, by which its format is found."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..base.errors import FormatError
from .dataset_files import hub_rows, is_csv, read_csv
from .files import opened
from .lines import read_objects
from .parquet_files import read_parquet
from .places import is_hub
from .rollout import Row
from .values import ABSENT, read_json, value_at

_ROWS = 5
_EVENTS = 20_000
_ITEMS = 2
_NAMES = 1000


@dataclass(frozen=True)
class FileSample:
    """What the beginning of a file shows.

    Attributes:
        kind: lines (JSON objects), object (one JSON object), parquet, zip, sqlite, folder or hub.
        rows: The first few records; for `object` the object with its lists cut short, for `folder` those of its first file of records.
        members: Names in the zip or folder.
    """

    path: Path
    kind: str
    rows: list[Row] = field(default_factory=list)
    members: list[str] = field(default_factory=list)

    def have(self, *names: str) -> bool:
        """Whether every record has these keys (dotted ones lead into objects)."""
        return bool(self.rows) and all(value_at(row, name) is not ABSENT for row in self.rows for name in names)

    def any(self, *names: str) -> bool:
        """Whether some record has all of these keys."""
        return any(all(value_at(row, name) is not ABSENT for name in names) for row in self.rows)


def sample_of(path: Path) -> FileSample:
    """The beginning of a file, folder or dataset. Raises FormatError when there is none, or when it is of no kind that is known."""
    if is_hub(path):
        return FileSample(path, "hub", list(islice(hub_rows(str(path)), _ROWS)))
    if not path.exists():
        raise FormatError(f"There is no file {path}.", "Check the path.")
    if path.is_dir():
        return _of_folder(path)
    with path.open("rb") as file:
        magic = file.read(16)
    if magic.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            return FileSample(path, "zip", members=archive.namelist()[:_NAMES])
    if magic.startswith(b"PAR1"):
        return FileSample(path, "parquet", _parquet_rows(path))
    if magic.startswith(b"SQLite format 3"):
        return FileSample(path, "sqlite")
    return _of_text(path)


def _of_folder(path: Path) -> FileSample:
    """The names in a folder, and the first records of its first file of records."""
    files = islice((member for member in sorted(path.rglob("*")) if member.is_file()), _NAMES)
    names = [member.relative_to(path).as_posix() for member in files]
    first = next((name for name in names if name.endswith((".jsonl", ".json"))), None)
    return FileSample(path, "folder", sample_of(path / first).rows if first else [], names)


def _parquet_rows(path: Path) -> list[Row]:
    return [row for _, row in islice(read_parquet(path, None), _ROWS)]


def _of_text(path: Path) -> FileSample:
    with opened(path) as (file, _):
        first = file.readline(1 << 20).lstrip(b"\xef\xbb\xbf").strip()
    one = read_json(first.decode("utf-8", errors="replace"))
    if isinstance(one, dict) and path.suffix != ".json":
        return FileSample(path, "lines", [row for _, row in islice(read_objects(path, None), _ROWS)])
    value = outline(path)
    if isinstance(value, list):
        return FileSample(path, "lines", [row for row in value if isinstance(row, dict)])
    if isinstance(value, dict):
        return FileSample(path, "object", [value])
    if is_csv(path):
        return FileSample(path, "lines", [row for _, row in islice(read_csv(path), _ROWS)])
    raise FormatError(
        f"{path} holds neither JSON, Parquet, CSV nor an archive.", "Name the format: `rollhouse import FORMAT FILE`."
    )


def outline(path: Path) -> Any:
    """The JSON value of a file with its lists cut to two items, read from its first events; None for what is not JSON."""
    import ijson

    with opened(path) as (file, _):
        try:
            return _cut(islice(ijson.parse(file, use_float=True), _EVENTS))
        except (ijson.JSONError, UnicodeDecodeError):
            return None


def _cut(events: Iterator[tuple[str, str, Any]]) -> Any:
    """Builds a value from events and leaves out the later items of lists. What was not reached is absent."""
    top: list[Any] = []
    open_: list[tuple[Any, str | None]] = []

    def put(value: Any) -> Any:
        into, key = open_[-1] if open_ else (top, None)
        if isinstance(into, dict):
            into[key] = value
        elif into is top or len(into) < _ITEMS:
            into.append(value)
        return value

    for _, event, value in events:
        if event == "map_key":
            open_[-1] = (open_[-1][0], value)
        elif event in ("start_map", "start_array"):
            open_.append((put({} if event == "start_map" else []), None))
        elif event in ("end_map", "end_array"):
            open_.pop()
        else:
            put(value)
    return top[0] if top else None
