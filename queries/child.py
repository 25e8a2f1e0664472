"""A query in a process of its own, watched from outside: DuckDB's memory limit does not count the buffers of Lance's reader.

The parent sends a request, the child answers with one line of JSON and, when it went well, the rows as an Arrow stream. Pickle carries the
request because parameters may be dates or bytes; both ends are ours. The watcher kills; a limit of the kernel's made a library that could not
allocate wait for ever.
"""

import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base import errors
from ..base.errors import ConfigError, QueryError, RollhouseError
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
# A query that does not let itself be interrupted in this time is killed.
_GRACE_S = 10.0
_LOOK_EVERY_S = 0.02


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
    """As `session.sql`, but `memory_limit` bounds all that the query's process holds, and `timeout_s` ends whatever it does.

    The bound is looked at fifty times a second, so a query may pass it for a moment. Off Linux it is DuckDB's own bound only.
    Raises ConfigError for a limit that is not a size; else what `session.sql` raises.
    """
    limit = memory_bytes(memory_limit)
    request = {"uri": store.uri, "query": query, "at": at if at is not None else store.at, "params": params, "scorer": scorer, "memory_limit": memory_limit, "timeout_s": timeout_s}  # fmt: skip
    command = [sys.executable, "-m", "rollhouse.queries.child"]
    broke: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        threading.Thread(target=_watch, args=(process, limit, timeout_s, broke), daemon=True).start()
        try:
            output, _ = process.communicate(pickle.dumps(request))
        finally:
            process.kill()
    if "time" in broke:
        raise QueryError(f"The query took longer than {timeout_s:g} s.", "Narrow it, or allow it more time.")
    if "memory" in broke:
        raise QueryError(f"The query needs more memory than {memory_limit}.", "Narrow it, or raise the limit.")
    return _read(output)


def _watch(process: "subprocess.Popen[bytes]", limit: int, timeout_s: float | None, broke: list[str]) -> None:
    """Kills the process when it holds too much or goes on too long, and says in `broke` why."""
    deadline = time.monotonic() + timeout_s + _GRACE_S if timeout_s else None
    while process.poll() is None:
        if _held_bytes(process.pid) > limit:
            broke.append("memory")
            process.kill()
        elif deadline and time.monotonic() > deadline:
            broke.append("time")
            process.kill()
        time.sleep(_LOOK_EVERY_S)


def _held_bytes(pid: int) -> int:
    """What the process holds besides the pages of its program files; 0 where that cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


def memory_bytes(text: str) -> int:
    """`500MB`, `4GiB` as bytes. Raises ConfigError for anything else."""
    match = _MEMORY.fullmatch(text.strip())
    if not match:
        raise ConfigError(f"{text!r} is not an amount of memory.", "Write 500MB or 4GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _read(output: bytes) -> pa.Table:
    line, newline, rows = output.partition(b"\n")
    if not newline:
        raise QueryError("The query's process ended without an answer.", "It may have run out of memory: narrow it.")
    head = json.loads(line)
    if head["error"]:
        raise getattr(errors, head["error"])(head["message"], head["fix"])
    return pa.ipc.open_stream(pa.py_buffer(rows)).read_all()


def _serve() -> None:
    """One request from stdin, one answer to stdout. Whatever a library prints goes elsewhere."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = pickle.loads(sys.stdin.buffer.read())
    store = LanceStore(request.pop("uri"))
    try:
        table = session.sql(store, **request)
        out.write(b'{"error": null}\n')
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    except RollhouseError as error:
        head = {"error": type(error).__name__, "message": error.message, "fix": error.fix}
        out.write(json.dumps(head).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    _serve()
