"""A hash of every data file, kept when the file is written, so that `check` sees damage that still decodes.

One line a file in `_hashes/<table>.log` of the store's folder: check sum of the line, SHA-256, bytes, name. Lance never changes a file that it
wrote. A file without a line (an older version wrote it, or its writer was killed) gets one when `check` has read it whole. Object stores
verify a checksum of their own at each upload, and have no such folder: a hash here would download every file again.
"""

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lance_store import LanceStore


@dataclass(frozen=True)
class FileHash:
    """What a file was when it was written."""

    sha256: str
    size: int


def has_hashes(store: LanceStore) -> bool:
    """Whether this store keeps hashes: those on a disk do."""
    return "://" not in store.uri


def data_path(store: LanceStore, table: str, name: str) -> Path:
    """Where a data file lies, given its name in the table's manifest."""
    return Path(store.table_uri(table)) / "data" / name


def record(store: LanceStore, table: str, names: Iterable[str]) -> None:
    """Hashes files and keeps the hashes. A file that cannot be read now, and a full disk, are left to the next `check`."""
    if not has_hashes(store):
        return
    try:
        lines = "".join(_line(store, table, name) for name in names)
        if lines:
            _append(_log(store, table), lines)
    except OSError:
        return


def record_new(store: LanceStore, table: str, dataset: Any, after: int) -> None:
    """Keeps the hashes of the fragments of a dataset whose ids are above `after`."""
    record(store, table, files_of(fragment for fragment in dataset.get_fragments() if fragment.fragment_id > after))


def last_fragment(dataset: Any) -> int:
    """The highest fragment id of a dataset; -1 for an empty one."""
    return max((fragment.fragment_id for fragment in dataset.get_fragments()), default=-1)


def files_of(fragments: Iterable[Any]) -> list[str]:
    """The names of the data files of fragments."""
    return [file.path for fragment in fragments for file in fragment.data_files()]


def hash_of(path: Path) -> FileHash:
    """The hash of a file. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileHash(digest, file.tell())


def known(store: LanceStore, table: str) -> dict[str, FileHash]:
    """The hashes that were kept, by name. A line that is itself damaged is passed over; the first line of a name counts."""
    found: dict[str, FileHash] = {}
    for sha256, size, name in _lines(_log(store, table)):
        found.setdefault(name, FileHash(sha256, int(size)))
    return found


def changed(store: LanceStore, table: str, names: Iterable[str]) -> list[str]:
    """Those of the files that are not what was written, among those whose hash is known."""
    if not has_hashes(store):
        return []
    kept = known(store, table)
    return [name for name in names if name in kept and hash_of(data_path(store, table, name)) != kept[name]]


def forget_gone(store: LanceStore, table: str) -> None:
    """Drops the lines of files that a clean-up removed. Call it under the maintenance lease."""
    log = _log(store, table)
    if not has_hashes(store) or not log.is_file():
        return
    kept = {name: text for name, text in known(store, table).items() if data_path(store, table, name).exists()}
    partial = log.with_name(f"{log.name}.new")
    try:
        partial.write_text("".join(_formed(hashed, name) for name, hashed in kept.items()))
        os.replace(partial, log)
    except OSError:  # the disk is full: lines of files that are gone do no harm
        partial.unlink(missing_ok=True)


def _log(store: LanceStore, table: str) -> Path:
    return Path(store.uri) / "_hashes" / f"{table}.log"


def _append(log: Path, lines: str) -> None:
    log.parent.mkdir(exist_ok=True)
    # One write of an appending file: lines of several processes do not mix.
    with open(log, "ab", buffering=0) as file:
        file.write(b"\n" + lines.encode())  # a line that a kill cut short takes no other with it


def _line(store: LanceStore, table: str, name: str) -> str:
    return _formed(hash_of(data_path(store, table, name)), name)


def _formed(hashed: FileHash, name: str) -> str:
    text = f"{hashed.sha256} {hashed.size} {name}"
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def _lines(log: Path) -> Iterator[list[str]]:
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        check, _, text = line.partition(b" ")
        parts = text.decode(errors="replace").split(" ", 2)
        if len(parts) == 3 and check == f"{zlib.crc32(text):08x}".encode():
            yield parts
