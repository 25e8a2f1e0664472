"""Who may write: a lease with an epoch, kept in the store.

A lease is a name (a run, or "maintenance") and a rising epoch. Taking it means being the one who inserts the row of the next epoch: the
key makes Lance let exactly one of several takers through, on a disk and on an object store alike. The holder compares epochs before
every append, so a writer that slept through a takeover notices before it writes. The table is the store's own business: it is in no
snapshot and no view.
"""

import json
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..base.errors import WriteConflict
from .schema import Column, Table

if TYPE_CHECKING:
    from .lance_store import LanceStore

# A holder on another machine is given up when it has shown no sign of life for this long; on this machine its process is looked up.
GIVE_UP = timedelta(minutes=10)
RENEW = timedelta(minutes=1)

LEASES = Table(
    "_leases",
    "Who took which lease, renewed it, gave it back.",
    "row_id",
    (
        Column("row_id", pa.string(), "name#epoch of a taking; #event and a number follow for the rest"),
        Column("name", pa.string(), "what is held: run/RUN_ID, maintenance, snapshot/NAME"),
        Column("epoch", pa.int64(), "rises by one with every taking, from 1"),
        Column("event", pa.string(), "taken, renewed or released"),
        Column("holder", pa.string(), "JSON: machine, pid, start of the process, token"),
        Column("created_at", pa.timestamp("us", tz="UTC"), "when"),
    ),
)


@dataclass
class Lease:
    """A lease that was taken. Picklable: a process that was handed it writes under the same epoch.

    Attributes:
        epoch: Of this taking.
        seen_version: Version of the lease table at the last check; the same version again means nothing changed.
        renewed_at: Last sign of life written to the store.
        took_over: Whether the holder before had not given it back. It is gone, as far as can be seen from here.
    """

    store: "LanceStore"
    name: str
    epoch: int
    holder: str
    renewed_at: datetime
    took_over: bool = False
    seen_version: int = -1
    released: bool = False
    _seen: Any = None

    def check(self) -> None:
        """Raises WriteConflict when the lease was given back or somebody else has taken it. Renews it once a minute."""
        if self.released:
            raise WriteConflict(f"The lease on {self.name} was given back.", "Start the run again to write to it.")
        # The handle is kept: asking it for the latest version costs a tenth of opening the table.
        if self._seen is None or self._seen.latest_version != self.seen_version:
            self._seen = _dataset(self.store)
            state = _state(self._seen, self.name)
            if state is None or state["epoch"] != self.epoch:
                by = _describe(state) if state else "no process"
                raise WriteConflict(
                    f"This process no longer holds {self.name}: it was taken over by {by}.",
                    "What was committed before is kept; start the run again to go on.",
                )
            self.seen_version = self._seen.version
        if _now() - self.renewed_at > RENEW:
            self._say("renewed")
            self.renewed_at = _now()

    def release(self) -> None:
        """Gives the lease back; a second time does nothing."""
        if not self.released:
            self._say("released")
            self.released = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None}

    def _say(self, event: str) -> None:
        row_id = f"{self.name}#{self.epoch}#{event}#{_now().isoformat()}"
        _insert(self.store, _row(row_id, self.name, self.epoch, event, self.holder))


def take(store: "LanceStore", name: str) -> Lease:
    """Takes the lease. Raises WriteConflict naming the holder when one is alive."""
    for _ in range(10):
        state = _state(_dataset(store), name)
        if state and is_alive(state):
            raise WriteConflict(
                f"{name} is held by {_describe(state)}.", "Wait for it to end, end it, or use another name."
            )
        epoch = state["epoch"] + 1 if state else 1
        holder = _myself()
        if _insert(store, _row(f"{name}#{epoch}", name, epoch, "taken", holder)):
            took_over = state is not None and not state["released"]
            return Lease(store, name, epoch, holder, renewed_at=_now(), took_over=took_over)
    raise WriteConflict(f"{name} is being fought over by several processes.", "Start one of them only.")


def holder_of(store: "LanceStore", name: str) -> dict[str, Any] | None:
    """The living holder of a lease: `machine`, `pid`, `taken_at`, `last_seen`; None when it is free."""
    state = _state(_dataset(store), name)
    return state if state and is_alive(state) else None


def is_alive(state: dict[str, Any]) -> bool:
    """Whether the holder has not given the lease back and, as far as can be seen from here, still runs."""
    if state["released"]:
        return False
    if state["machine"] == _machine():
        return _process_start(state["pid"]) == state["process_start"]
    return _now() - state["last_seen"] < GIVE_UP


def _state(dataset: Any, name: str) -> dict[str, Any] | None:
    quoted = name.replace("'", "''")
    rows = dataset.to_table(filter=f"name = '{quoted}'").to_pylist()
    if not rows:
        return None
    epoch = max(row["epoch"] for row in rows)
    rows = [row for row in rows if row["epoch"] == epoch]
    taken = next(row for row in rows if row["event"] == "taken")
    return {
        **json.loads(taken["holder"]),
        "epoch": epoch,
        "taken_at": taken["created_at"],
        "last_seen": max(row["created_at"] for row in rows),
        "released": any(row["event"] == "released" for row in rows),
    }


def _describe(state: dict[str, Any]) -> str:
    host = state["machine"].split("/")[0]
    return f"process {state['pid']} on {host} since {state['taken_at']:%Y-%m-%d %H:%M:%S} UTC"


def _dataset(store: "LanceStore") -> Any:
    if not store.has_table(LEASES.name):
        store.create_table(LEASES)
    return store.lance_dataset(LEASES.name)


def _insert(store: "LanceStore", row: dict[str, Any]) -> bool:
    merge = _dataset(store).merge_insert(LEASES.key).use_index(False).when_not_matched_insert_all()
    return merge.execute(pa.Table.from_pylist([row], schema=LEASES.schema))["num_inserted_rows"] == 1


def _row(row_id: str, name: str, epoch: int, event: str, holder: str) -> dict[str, Any]:
    return {"row_id": row_id, "name": name, "epoch": epoch, "event": event, "holder": holder, "created_at": _now()}


def _myself() -> str:
    pid = os.getpid()
    token = uuid.uuid4().hex
    return json.dumps({"machine": _machine(), "pid": pid, "process_start": _process_start(pid), "token": token})


@cache
def this_process() -> dict[str, Any]:
    """`machine`, `pid` and `process_start`, by which another process of this machine finds out whether this one still runs."""
    return {"machine": _machine(), "pid": os.getpid(), "process_start": _process_start(os.getpid())}


def runs_here(process: Mapping[str, Any]) -> bool:
    """Whether a process that `this_process` described is of this machine and still runs."""
    return process["machine"] == _machine() and _process_start(process["pid"]) == process["process_start"]


def _machine() -> str:
    # Two containers may share a host name and a boot, but not a process-id namespace.
    parts = [socket.gethostname()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass
    return "/".join(parts)


def _process_start(pid: int) -> str | None:
    """Tells a process from a later one with the same id. None when there is none, or only its unreaped remains."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"


def _now() -> datetime:
    return datetime.now(UTC)
