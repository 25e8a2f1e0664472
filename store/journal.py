"""The journal: what a writer was given and has not committed yet, on disk, so that a killed process loses none of it.

One file for each writer, in the store's folder: `_journal/<run>/<incarnation>-<pid>-<hex>.rows`. It is emptied when its rows are in the
store and removed when the writer is closed. Whoever starts the run again, or repairs the store, inserts what is absent and removes it.

The file is a magic word and frames. A frame is a header (kind, length, checksum) and Arrow IPC bytes: the schema of a table before its
first rows, then record batches. A frame cut short by a kill was never acknowledged, and reading ends before it.
"""

import contextlib
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from .appending import insert_if_absent
from .lance_store import LanceStore
from .tables import TABLES

# In the order in which they are written to the store. Frames hold the position: a new table goes to the end.
JOURNALED = ("prompts", "prompt_tokens", "tasks", "rollouts", "scores")
_MAGIC = b"rollhouse journal 1\n"
_FRAME = struct.Struct("<BQI")
_SCHEMA = 128


class Journal:
    """One writer's file. Not thread-safe: the writer's lock guards it."""

    def __init__(self, store: LanceStore, run_id: str, incarnation: int) -> None:
        name = f"{incarnation:04d}-{os.getpid()}-{secrets.token_hex(4)}.rows"
        self._path = _folder(store) / run_id / name
        self._file: IO[bytes] | None = None
        self._head = self._end = 0

    def add(self, batches: dict[str, pa.RecordBatch]) -> None:
        """Appends the rows of each table, all or none. Raises OSError when the disk takes no more; the file is then as before."""
        file = self._file or self._open()
        frames = b"".join(self._frames(batches))
        try:
            _write(file, frames)
        except OSError:
            self._cut(self._end)
            raise
        self._end += len(frames)

    def clear(self) -> None:
        """Forgets the rows: they are in the store."""
        if self._file is not None and self._end > self._head:
            self._cut(self._head)

    def close(self) -> None:
        """Lets go of the file, and removes it when nothing is in it."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if self._end == self._head:
            _remove(self._path)

    def _open(self) -> IO[bytes]:
        file = _create(self._path)
        head = _MAGIC + b"".join(_schema_frame(table) for table in JOURNALED)
        try:
            _write(file, head)
        except OSError:
            file.close()
            _remove(self._path)
            raise
        self._file = file
        self._head = self._end = len(head)
        return file

    def _frames(self, batches: dict[str, pa.RecordBatch]) -> Iterator[bytes | memoryview]:
        for table, batch in batches.items():
            yield from _frame(JOURNALED.index(table), batch.serialize())

    def _cut(self, length: int) -> None:
        assert self._file is not None
        self._file.truncate(length)
        self._file.seek(length)
        self._end = length


def replay(store: LanceStore, run_id: str) -> int:
    """Inserts what the run's journals hold and the store does not, removes them, and returns how many rollouts were new.

    Call it under the run's lease only: a living writer's journal is its own.
    """
    inserted = 0
    for path in _files(store, run_id):
        tables: dict[str, list[pa.RecordBatch]] = {table: [] for table in JOURNALED}
        for table, batch in _read(path):
            tables[table].append(batch)
        for table, batches in tables.items():
            if batches:
                rows = insert_if_absent(store, table, pa.Table.from_batches(batches).combine_chunks())
                inserted += rows if table == "rollouts" else 0
        _remove(path)
    return inserted


def waiting(store: LanceStore) -> dict[str, int]:
    """How many rollouts stand in the journals of each run; runs whose journals hold nothing are left out."""
    runs = sorted(path.name for path in _folder(store).glob("*")) if has_journal(store) else []
    found = {}
    for run_id in runs:
        rows = sum(
            batch.num_rows for path in _files(store, run_id) for table, batch in _read(path) if table == "rollouts"
        )
        if rows:
            found[run_id] = rows
    return found


def open_calls(store: LanceStore) -> dict[str, int]:
    """How many served rollouts each run has open: files of model calls in its journal."""
    folders = _folder(store).glob("*/calls") if has_journal(store) else ()
    counts = {folder.parent.name: sum(1 for _ in folder.glob("*.jsonl")) for folder in folders}
    return {run_id: count for run_id, count in sorted(counts.items()) if count}


def has_journal(store: LanceStore) -> bool:
    """Whether this store keeps journals: those on a disk do, those on an object store, where nothing can be appended to, do not."""
    return "://" not in store.uri


def _folder(store: LanceStore) -> Path:
    return Path(store.uri) / "_journal"


def _files(store: LanceStore, run_id: str) -> list[Path]:
    return sorted((_folder(store) / run_id).glob("*.rows")) if has_journal(store) else []


def _create(path: Path) -> IO[bytes]:
    for _ in range(5):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another writer has just removed the empty folder
            # Unbuffered: what was written has left the process, and a kill cannot take it.
            return open(path, "xb", buffering=0)
    raise FileNotFoundError(path)


def _write(file: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        # A disk that is nearly full takes a part and refuses the next.
        left = left[file.write(left) :]


def _schema_frame(table: str) -> bytes:
    return b"".join(_frame(_SCHEMA | JOURNALED.index(table), TABLES[table].schema.serialize()))


def _frame(kind: int, data: pa.Buffer) -> tuple[bytes, memoryview]:
    view = memoryview(data)
    return _FRAME.pack(kind, len(view), zlib.crc32(view)), view


def _read(path: Path) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Table and rows of each whole frame."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # its writer has just closed it
        return
    at = len(_MAGIC)
    schemas: dict[int, pa.Schema] = {}
    while data.startswith(_MAGIC) and at + _FRAME.size <= len(data):
        kind, length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        at += _FRAME.size + length
        if kind & _SCHEMA:
            schemas[kind & ~_SCHEMA] = pa.ipc.read_schema(pa.py_buffer(payload))
        else:
            yield JOURNALED[kind], pa.ipc.read_record_batch(pa.py_buffer(payload), schemas[kind])


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):  # the run's, then `_journal`
        try:
            folder.rmdir()
        except OSError:  # another journal is in it
            return
