"""A store: a folder or object-store URI of Lance tables."""

import difflib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from ..base.errors import DamagedStore, StoreNotFound, VersionNotFound, one_line
from . import version
from .object_store import probe
from .schema import Table
from .tables import TABLES

if TYPE_CHECKING:
    import lance

DEFAULT_STORE = "rollouts"


def store_location(explicit: str | None = None) -> str:
    """The store a command works on: the option, else $ROLLHOUSE_STORE, else ./rollouts."""
    return explicit or os.environ.get("ROLLHOUSE_STORE") or DEFAULT_STORE


def quote(text: str) -> str:
    """The text as a literal of a filter."""
    return "'" + text.replace("'", "''") + "'"


class LanceStore:
    """Reads and writes the tables. Cheap to make; every read opens the latest version unless `at` is given.

    Attributes:
        uri: Where the tables are.
        at: What every read opens that names no version itself, a snapshot's name or an ISO time; None is the latest. A store
            opened at a version is for reading only.
    """

    def __init__(self, uri: str, at: str | None = None) -> None:
        self.uri = uri
        self.at = at

    @classmethod
    def create(cls, uri: str | os.PathLike[str]) -> Self:
        """Opens the store, making the tables it lacks and adding the columns that an older version's tables lack.

        Raises WriteConflict for an object store that may lose commits: it is tried once a process.
        """
        store = cls(str(uri))
        if "://" not in store.uri:
            Path(store.uri).mkdir(parents=True, exist_ok=True)
        else:
            probe(store.uri)
        version.check(store.uri)
        # `rollouts` comes last: where it is, the store is whole.
        for table in sorted(TABLES.values(), key=lambda table: table.name == "rollouts"):
            store.create_table(table)
        version.write(store.uri)
        return store

    @classmethod
    def open(cls, uri: str | os.PathLike[str], at: str | None = None) -> Self:
        """Opens a store that exists, as it is or as it was. Raises StoreNotFound, StoreTooNew, and VersionNotFound for an unknown `at`."""
        store = cls(str(uri), at)
        if not store.has_table("rollouts"):
            raise StoreNotFound(
                f"There is no store at {store.uri}.",
                "Name one with --store or $ROLLHOUSE_STORE; `rollhouse collect` and `rollhouse import` make one.",
            )
        version.check(store.uri)
        if at is not None:
            store.versions(at, tables=["rollouts"])
        return store

    def table_uri(self, table: str) -> str:
        """Where a table lies; `lancedb.connect(store.uri).open_table(table)` opens the same one."""
        return f"{self.uri.rstrip('/')}/{table}.lance"

    def has_table(self, table: str) -> bool:
        """Whether the table was made."""
        if "://" not in self.uri:
            return os.path.isdir(os.path.join(self.table_uri(table), "_versions"))
        import lance

        try:
            lance.dataset(self.table_uri(table))
        except ValueError:
            return False
        return True

    def tables(self) -> list[str]:
        """Names of the tables. A store of an earlier version lacks those that were added later, until it is written to."""
        return [name for name, table in TABLES.items() if not table.later or self.has_table(name)]

    def create_table(self, table: Table) -> None:
        """Makes an empty table; one that is there already, or that another process makes first, stays as it is.

        On an object store let one process make the store before others write: there a table cannot be put in place in one move.
        """
        if self.has_table(table.name):
            self._add_columns(table)
            return
        if "://" in self.uri:
            _write_empty(table, self.table_uri(table.name))
            return
        # Lance lets a late creation overwrite an early one, rows included; a rename does not.
        making = os.path.join(self.uri, f".making-{table.name}-{uuid.uuid4().hex}")
        _write_empty(table, making)
        try:
            os.rename(making, self.table_uri(table.name))
        except OSError:
            shutil.rmtree(making)
            if not self.has_table(table.name):
                raise

    def _add_columns(self, table: Table) -> None:
        from lance.commit import CommitConflictError

        # Another process may be adding them, or writing: then there is a conflict, and the table is read again.
        for attempt in range(5):
            dataset = self.lance_dataset(table.name)
            lacking = [field for field in table.schema if field.name not in dataset.schema.names]
            if not lacking:
                return
            try:
                dataset.add_columns(lacking)
            except (CommitConflictError, ValueError):
                if attempt == 4:
                    raise

    def lancedb(self) -> Any:
        """The same tables as a LanceDB connection (search goes through it)."""
        import lancedb

        return lancedb.connect(self.uri)

    def lance_dataset(self, table: str, at: str | None = None) -> "lance.LanceDataset":
        """The Lance dataset at its latest version, or at a snapshot's name or an ISO time. Raises VersionNotFound."""
        import lance

        at = at if at is not None else self.at
        if at is None:
            try:
                return lance.dataset(self.table_uri(table))
            except (OSError, ValueError, RuntimeError) as error:
                raise self._not_opened(table, error) from error
        versions = self.versions(at, tables=[table])
        if table not in versions:
            raise VersionNotFound(f"Table {table} did not exist at {at}.", "Ask for a later snapshot or time.")
        return self.lance_dataset_version(table, versions[table])

    def _not_opened(self, table: str, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        if "://" in self.uri or self.has_table(table):
            reason = one_line(str(error).splitlines()[0])
            return DamagedStore(f"Table {table} of {self.uri} cannot be opened: {reason}.", "`rollhouse check --salvage` goes back to its newest version that can.")  # fmt: skip
        near = difflib.get_close_matches(table, TABLES, n=1)
        return StoreNotFound(f"There is no table {table!r} in {self.uri}.", f"Did you mean {near[0]}?" if near else f"Its tables are {', '.join(TABLES)}.")  # fmt: skip

    def lance_dataset_version(self, table: str, number: int) -> "lance.LanceDataset":
        """The Lance dataset at a version number."""
        import lance

        return lance.dataset(self.table_uri(table), version=number)

    def versions(self, at: str, tables: Iterable[str] = TABLES) -> dict[str, int]:
        """The version of each table at a snapshot's name or an ISO time (without a zone: UTC).

        A table made later is left out. Raises VersionNotFound when there is no such snapshot, or when the versions of that time were
        cleaned up.
        """
        latest = type(self)(self.uri)
        tables = [table for table in tables if not _is_later(table) or latest.has_table(table)]
        rows = latest.read("snapshots", filter=f"name = {quote(at)}").to_pylist()
        if rows:
            found = {entry["table"]: entry["version"] for entry in rows[0]["versions"]}
            return {table: found[table] for table in tables if table in found}
        try:
            time = datetime.fromisoformat(at)
        except ValueError:
            raise VersionNotFound(
                f"There is no snapshot {at!r} in {self.uri}, and it is not an ISO time.",
                "`rollhouse snapshot list` names them.",
            ) from None
        time = time.replace(tzinfo=time.tzinfo or UTC)
        if time > datetime.now(UTC):
            raise VersionNotFound(f"{at} lies in the future.", "Name a snapshot or a time that is over.")
        found = {table: latest._version_at(table, time) for table in tables}
        return {table: version for table, version in found.items() if version is not None}

    def _version_at(self, table: str, time: datetime) -> int | None:
        versions: list[dict[str, Any]] = self.lance_dataset(table).versions()  # type: ignore[assignment]
        # Lance gives the time of each commit without a zone, in the machine's own.
        older = [entry["version"] for entry in versions if entry["timestamp"].astimezone(UTC) <= time]
        if not older:
            if versions[0]["version"] == 1:
                return None
            raise self._cleaned_up(table, time)
        numbers = {entry["version"] for entry in versions}
        if older[-1] != versions[-1]["version"] and older[-1] + 1 not in numbers:
            raise self._cleaned_up(table, time)
        return older[-1]

    def _has_at(self, table: str, at: str | None) -> bool:
        at = at if at is not None else self.at
        return self.has_table(table) if at is None else table in self.versions(at, [table])

    def _cleaned_up(self, table: str, time: datetime) -> VersionNotFound:
        when = time.isoformat(timespec="seconds")
        return VersionNotFound(
            f"The versions of {table} at {when} were cleaned up.",
            "Snapshots are kept for ever: `rollhouse snapshot list`.",
        )

    def read(
        self,
        table: str,
        columns: list[str] | None = None,
        filter: str | None = None,
        at: str | None = None,
        batch_rows: int | None = None,
    ) -> pa.Table:
        """Rows as Arrow. `filter` is a Lance SQL expression; name `columns` to leave heavy lists unread.

        `batch_rows` is how many are read at a time, None as Lance sees fit: for a million rows of narrow columns more is faster.

        A column that the table did not have yet in that version is null, in the filter too.
        """
        if _is_later(table) and not self._has_at(table, at):
            empty = TABLES[table].schema.empty_table()
            return empty if columns is None else empty.select(columns)
        dataset = self.lance_dataset(table, at)
        all_lacking = lacking_columns(table, dataset)
        filter = _with_nulls(filter, all_lacking)
        lacking = [field for field in all_lacking if columns is None or field.name in columns]
        if not lacking:
            return dataset.to_table(columns=columns, filter=filter, batch_size=batch_rows)
        there = None if columns is None else [name for name in columns if name in dataset.schema.names]
        rows = dataset.scanner(columns=there, filter=filter, with_row_id=there == []).to_table()
        for field in lacking:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        return rows if columns is None else rows.select(columns)

    def batches(
        self,
        table: str,
        columns: list[str],
        filter: str | None = None,
        at: str | None = None,
        max_bytes: int = 16 << 20,
        max_rows: int = 8192,
    ) -> Iterator[pa.RecordBatch]:
        """Rows in the order of the table, about `max_bytes` and at most `max_rows` at a time, so that memory stays bounded however large the table is.

        Columns that the table does not have yet are null, as in `read`.
        """
        dataset = self.lance_dataset(table, at)
        all_lacking = lacking_columns(table, dataset)
        filter = _with_nulls(filter, all_lacking)
        lacking = {field.name: field for field in all_lacking if field.name in columns}
        there = [name for name in columns if name not in lacking] or dataset.schema.names[:1]
        some = dataset.to_table(columns=there, filter=filter, limit=64)
        rows = max(1, max_bytes * some.num_rows // max(1, some.nbytes))
        # Lance reads ahead by batches and fragments: its defaults hold gigabytes of wide rows.
        for batch in dataset.to_batches(
            columns=there, filter=filter, batch_size=min(rows, max_rows), batch_readahead=2, fragment_readahead=1
        ):
            for field in lacking.values():
                batch = batch.append_column(field, pa.nulls(batch.num_rows, field.type))
            yield batch.select(columns) if lacking else batch


_SQL_TYPES = {
    "float": "FLOAT",
    "double": "DOUBLE",
    "int8": "TINYINT",
    "int32": "INT",
    "int64": "BIGINT",
    "bool": "BOOLEAN",
}


def _with_nulls(filter: str | None, lacking: list[pa.Field]) -> str | None:
    """The filter with NULL for columns that the table does not have."""
    if filter is None or not lacking:
        return filter
    types = {field.name: _SQL_TYPES.get(str(field.type), "STRING") for field in lacking}
    # Quoted texts are passed over.
    words = re.compile(rf"'(?:[^']|'')*'|\b(?:{'|'.join(types)})\b")
    return words.sub(lambda found: f"CAST(NULL AS {types[found[0]]})" if found[0] in types else found[0], filter)


def lacking_columns(table: str, dataset: "lance.LanceDataset") -> list[pa.Field]:
    """The columns of a table that this version of it does not have: an older rollhouse made it."""
    there = set(dataset.schema.names)
    return [field for field in TABLES[table].schema if field.name not in there] if table in TABLES else []


def _is_later(table: str) -> bool:
    return table in TABLES and TABLES[table].later


def _write_empty(table: Table, uri: str) -> None:
    import lance

    lance.write_dataset(table.schema.empty_table(), uri, data_storage_version="2.2", enable_stable_row_ids=True)
