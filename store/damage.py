"""Damage of data files: found by their hashes and by reading every column, named by table, file and rows, and cut out by `salvage`."""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import RollhouseError, one_line
from . import hashes
from . import lease as leases
from .lance_store import LanceStore

SAMPLED_BYTES = 256 << 20
"""Bytes of each table that a plain `check` compares; `--deep` compares all."""


@dataclass(frozen=True)
class Damage:
    """A damaged data file.

    Attributes:
        fragment: Id of the fragment that the file belongs to.
        first, last: Rows of the table that it holds, from 0.
        why: What is wrong.
    """

    table: str
    file: str
    fragment: int
    first: int
    last: int
    why: str

    def __str__(self) -> str:
        rows = f"rows {self.first:,} to {self.last:,}" if self.last > self.first else f"row {self.first:,}"
        return f"Table {self.table} is damaged: data/{self.file}, with {rows}, {self.why}."


@dataclass(frozen=True)
class _Part:
    """A data file of a fragment, and where its rows stand in the table."""

    fragment: Any
    file: str
    first: int
    last: int


def damage_of(store: LanceStore, table: str, dataset: Any, deep: bool = False) -> list[Damage]:
    """The damaged files of one version of a table. Hashes of files that had none, and that could be read, are kept.

    Every file's presence and size are looked at. Contents are compared with the hash of each file, or without one by reading every column, until
    SAMPLED_BYTES are read, in random order; with `deep` of all files, and every column of all rows is read too.
    """
    if not hashes.has_hashes(store):
        return [damage for part in _parts(dataset) if deep and (damage := _decoded(table, part))]
    known = hashes.known(store, table)
    found, compared, new = [], 0, []
    parts = list(_parts(dataset))
    random.shuffle(parts)
    for part in parts:
        path, hashed = hashes.data_path(store, table, part.file), known.get(part.file)
        why = _size_problem(path, hashed)
        if why is None and (deep or compared < SAMPLED_BYTES):
            compared += path.stat().st_size
            why = _content_problem(path, hashed)
            damage = _decoded(table, part) if why is None and (deep or hashed is None) else None
            if damage is not None:
                found.append(damage)
            elif hashed is None and why is None:
                new.append(part.file)
        if why is not None:
            found.append(_damage(table, part, why))
    hashes.record(store, table, new)
    return sorted(found, key=lambda damage: damage.first)


def salvage(store: LanceStore) -> Iterator[str]:
    """Makes a new version of each damaged table that holds the rows of all whole files, and returns what was left out, a sentence each.

    A newest version that cannot be opened is moved aside, so that the one before it is the newest. Snapshots keep what they name.
    """
    lease = leases.take(store, "maintenance")
    try:
        for table in store.tables():
            yield from _reopened(store, table)
            dataset = store.lance_dataset(table)
            damages = damage_of(store, table, dataset, deep=True)
            if damages:
                _cut_out(dataset, {damage.fragment for damage in damages})
                yield from (f"{damage} It is left out of the new version." for damage in damages)
    finally:
        lease.release()


def _reopened(store: LanceStore, table: str) -> Iterator[str]:
    folder = Path(store.table_uri(table)) / "_versions"
    while True:
        try:
            store.lance_dataset(table)
            return
        except RollhouseError:
            # Lance counts versions down in these names, so that the newest comes first.
            manifests = sorted(folder.glob("*.manifest"))
            if len(manifests) < 2:
                raise
            os.replace(manifests[0], manifests[0].with_suffix(".damaged"))
            yield f"Table {table}: its newest version could not be opened; _versions/{manifests[0].name} is moved aside, and the version before it counts."


def _cut_out(dataset: Any, fragments: set[int]) -> None:
    import lance

    operation = lance.LanceOperation.Delete([], sorted(fragments), "damaged files")
    lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)


def _parts(dataset: Any) -> Iterator[_Part]:
    first = 0
    for fragment in dataset.get_fragments():
        rows = fragment.count_rows()
        for name in hashes.files_of([fragment]):
            yield _Part(fragment, name, first, first + max(rows, 1) - 1)
        first += rows


def _size_problem(path: Path, hashed: hashes.FileHash | None) -> str | None:
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if hashed is None or size == hashed.size else f"has {size} bytes, not {hashed.size}"


def _content_problem(path: Path, hashed: hashes.FileHash | None) -> str | None:
    try:
        return None if hashed is None or hashes.hash_of(path) == hashed else "is not what was written: its hash differs"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _decoded(table: str, part: _Part) -> Damage | None:
    """The damage that reading every column of the part's rows shows."""
    try:
        for batch in part.fragment.to_batches(batch_size=256):
            batch.validate(full=True)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # Lance panics over some bytes, which is no Exception
        return _damage(table, part, f"cannot be decoded: {one_line(error, 200)}")
    return None


def _damage(table: str, part: _Part, why: str) -> Damage:
    return Damage(table, part.file, part.fragment.fragment_id, part.first, part.last, why)
