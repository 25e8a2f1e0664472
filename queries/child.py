"""A query in a worker process, whose memory is watched from outside: DuckDB's memory limit does not count the buffers of Lance's reader.

The watcher kills the process: under a memory limit of the kernel a library waited forever.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa

from ..base import errors
from ..base.errors import ConfigError, QueryError
from ..base.worker_process import WorkerDied, WorkerError, WorkerProcess, WorkerSetup
from ..store.lance_store import LanceStore
from . import session

_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)", re.IGNORECASE)
# A query that cannot be interrupted in this time is killed.
_GRACE_S = 10.0
_FUNCTION = "rollhouse.queries.child:run_query"


def sql(
    store: LanceStore,
    query: str,
    at: str | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    scorer: str | None = None,
    memory_limit: str = "4GB",
    timeout_s: float | None = None,
) -> pa.Table:
    """As `session.sql`, but `memory_limit` bounds all memory of the query's process, and `timeout_s` ends it in any case.

    The memory is looked at fifty times a second, so a query may exceed the bound for a moment. Off Linux only DuckDB's own bound holds.
    Raises ConfigError for a limit that is not a size and for a parameter of an unknown type; else the errors of `session.sql`.
    """
    setup = WorkerSetup(
        modules=[__name__],
        resident_bytes=memory_bytes(memory_limit),
        file_bytes=None,
        environment=None,  # an object store's credentials are in it
        cwd=os.getcwd(),
    )
    request = {"uri": store.uri, "query": query, "at": at if at is not None else store.at, "scorer": scorer, "memory_limit": memory_limit, "timeout_s": timeout_s}  # fmt: skip
    request["params"] = None if params is None else {name: _coded(name, value) for name, value in params.items()}
    worker: WorkerProcess | None = None
    try:
        worker = WorkerProcess(setup)
        rows = worker.call(_FUNCTION, request, timeout_s + _GRACE_S if timeout_s else None)
    except TimeoutError:
        raise QueryError(f"The query took longer than {timeout_s:g} s.", "Narrow it, or raise the limit.") from None
    except WorkerDied as error:
        if error.over_memory:
            raise QueryError(f"The query needs more memory than {memory_limit}.", "Narrow it, or raise the limit.") from None  # fmt: skip
        raise QueryError("The query's process ended without a result.", "It may have run out of memory: narrow the query.") from None  # fmt: skip
    except WorkerError as error:
        if error.fields is None:
            raise
        raise getattr(errors, error.fields["type"], QueryError)(error.fields["message"], error.fields["fix"]) from None
    finally:
        if worker is not None:
            worker.kill()
    return pa.ipc.open_stream(pa.py_buffer(rows)).read_all()


class _Rows:
    """A table as the payload of a reply."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def write_payload(self, file: Any) -> None:
        with pa.ipc.new_stream(file, self._table.schema) as stream:
            stream.write_table(self._table)


def run_query(uri: str, params: dict[str, Any] | None, **request: Any) -> _Rows:
    """Runs in the worker process."""
    values = None if params is None else {name: _decoded(value) for name, value in params.items()}
    return _Rows(session.sql(LanceStore(uri), params=values, **request))


# -- parameters of a query as JSON ---------------------------------------------------------------------------------------

_CODES: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (timedelta, lambda value: str(value // timedelta(microseconds=1)), lambda text: timedelta(microseconds=int(text))),
    "decimal": (Decimal, str, Decimal),
    "uuid": (UUID, str, UUID),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
}  # fmt: skip


def _coded(name: str, value: Any) -> Any:
    """A parameter as JSON: {"is": type, "value": text} for a type that JSON lacks. Raises ConfigError for an unknown type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_coded(name, item) for item in value]
    if isinstance(value, Mapping):
        return {"is": "dict", "value": [[_coded(name, key), _coded(name, item)] for key, item in value.items()]}
    for code, (kind, write, _) in _CODES.items():
        if isinstance(value, kind):
            return {"is": code, "value": write(value)}
    if hasattr(value, "item"):  # a scalar of NumPy's
        return _coded(name, value.item())
    raise ConfigError(f"The query parameter {name!r} has type {type(value).__name__}.", "Pass a number, a string, bytes, a date or a list.")  # fmt: skip


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        if value["is"] == "dict":
            return {_decoded(key): _decoded(item) for key, item in value["value"]}
        return _CODES[value["is"]][2](value["value"])
    return value


def memory_bytes(text: str) -> int:
    """`500MB`, `4GiB` as bytes. Raises ConfigError for anything else."""
    match = _MEMORY.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"{text!r} is not an amount of memory.", "Write 500MB or 4GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])
