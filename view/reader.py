"""Reads a store for the pages: locked DuckDB connections that are used again until a table changes."""

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import QueryError
from ..queries.session import connect
from ..queries.sql_store import SqlStore
from ..store.lance_store import quote
from ..store.tables import TABLES

if TYPE_CHECKING:
    import duckdb

MEMORY = "256MB"
TIMEOUT_S = 20.0
_IDLE_KEPT = 2
_ANSWERS_KEPT = 32
_REMOTE_SECONDS = 2.0  # how long a store that is not a folder counts as unchanged


class Reader:
    """One store and the connections to it. Every method may be called from several threads.

    Attributes:
        name: The store's name in URLs.
        store: The store that is read.
    """

    def __init__(self, name: str, store: SqlStore) -> None:
        self.name, self.store = name, store
        self._lock = threading.Lock()
        self._idle: list[tuple[str, duckdb.DuckDBPyConnection]] = []
        self._answers: OrderedDict[tuple, Any] = OrderedDict()

    def stamp(self) -> str:
        """Changes when a table of the store does. A store on a disk is checked by its folders' times; another one counts as changed every two seconds."""
        if self.store.at is not None:
            return "at"
        if "://" in self.store.uri:
            return str(int(time.monotonic() / _REMOTE_SECONDS))
        return "-".join(f"{_changed_at(Path(self.store.table_uri(table)) / '_versions'):x}" for table in TABLES)

    def rows(self, query: str, **params: Any) -> list[dict[str, Any]]:
        """The result of one internal query as JSON-ready rows. Raises QueryError when it fails or takes longer than TIMEOUT_S."""
        import duckdb

        with self._connection() as con:
            timer = threading.Timer(TIMEOUT_S, con.interrupt)
            timer.start()
            try:
                table = con.sql(query, params=params or None).to_arrow_table()
            except duckdb.InterruptException:
                raise QueryError(f"The query took longer than {TIMEOUT_S:g} s.", "Narrow the filter.") from None
            except (duckdb.OutOfMemoryException, MemoryError):
                raise QueryError("The query needs more memory than the viewer may use.", "Narrow the filter.") from None
            except duckdb.Error as error:
                raise QueryError(f"The query failed: {' '.join(str(error).split())}", "Check the filter.") from None
            finally:
                timer.cancel()
        return plain(table.to_pylist())

    def row(self, query: str, **params: Any) -> dict[str, Any] | None:
        """The first row of the answer, None when there is none."""
        return next(iter(self.rows(query, **params)), None)

    def rollouts(self, rollout_ids: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Columns of some rollouts, unordered; unknown ids are left out.

        Two reads of Lance, of the ids and then of the rows: of a million rollouts it reads one narrow column.
        """
        if not rollout_ids:
            return []
        dataset = self.store.lance_dataset("rollouts")
        wanted = f"rollout_id IN ({', '.join(map(quote, rollout_ids))})"
        places = (
            dataset.scanner(columns=["rollout_id"], filter=wanted, with_row_id=True).to_table()["_rowid"].to_pylist()
        )
        if not places:
            return []
        known = [name for name in columns if name in dataset.schema.names]
        table = dataset.scanner(columns=known, filter=f"_rowid IN ({', '.join(map(str, places))})").to_table()
        return plain([dict.fromkeys(columns) | row for row in table.to_pylist()])

    def cached(self, key: tuple, make: Callable[[], Any], kept: int = _ANSWERS_KEPT) -> Any:
        """The result of `make`, cached until the store changes, with the last `kept` of its kind, which the key begins with."""
        key = (self.stamp(), key)
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        answer = make()
        with self._lock:
            self._answers[key] = answer
            same = [one for one in self._answers if one[1][0] == key[1][0]]
            for old in same[: max(0, len(same) - kept)]:
                del self._answers[old]
        return answer

    def close(self) -> None:
        """Closes the idle connections."""
        with self._lock:
            while self._idle:
                self._idle.pop()[1].close()

    @contextmanager
    def _connection(self) -> "Iterator[duckdb.DuckDBPyConnection]":
        stamp = self.stamp()
        con = self._take(stamp)
        try:
            yield con
        except BaseException:
            con.close()
            raise
        with self._lock:
            if len(self._idle) < _IDLE_KEPT:
                self._idle.append((stamp, con))
                return
        con.close()

    def _take(self, stamp: str) -> "duckdb.DuckDBPyConnection":
        with self._lock:
            fresh = [pair for pair in self._idle if pair[0] == stamp]
            for pair in self._idle:
                if pair[0] != stamp:
                    pair[1].close()
            self._idle = fresh[1:]
        if fresh:
            return fresh[0][1]
        con = connect(self.store, memory_limit=MEMORY, threads=2)
        for setting in ("temp_directory = ''", "enable_external_access = false", "lock_configuration = true"):
            con.execute(f"SET {setting}")
        return con


def plain(value: Any) -> Any:
    """The value as JSON holds it: times as ISO text, numbers that JSON lacks and bytes as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return None if isinstance(value, bytes) else str(value)


def _changed_at(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:  # a store that an older version wrote lacks the table
        return 0
