"""Runs: whatever makes rows has a name, a kind, and events that say how it went."""

import difflib
import json
import math
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from ..base.errors import ConfigError, StoreNotFound, interrupted
from ..base.redaction import redacted, redacted_values
from . import journal
from . import lease as leases
from .appending import append_rows, insert_if_absent
from .ids import hash_id
from .lance_store import LanceStore, quote
from .lease import Lease
from .naming import run_named
from .tables import RUN_KINDS
from .upkeep import Upkeep

_ENDINGS = {"finished", "failed", "aborted"}


@dataclass
class Run:
    """A run that this process writes. Leaving the `with` block writes how it ended and gives the lease back.

    Attributes:
        incarnation: How often the run was started before; 0 at first.
        config: What it was started with this time.
        lease: Held while the run lives; picklable with the run, for a writer in another process.
        writer: The open RolloutWriter, if any; finish() flushes it first.
        upkeep: Joins the small pieces that this run's commits leave.
    """

    store: LanceStore
    run_id: str
    kind: str
    incarnation: int
    config: dict[str, Any]
    lease: Lease
    writer: Any = None
    ended: bool = False
    _entered: bool = False
    _in_doubt: bool = False
    _next_event: int | None = None  # None: not read from the store yet
    _metrics: set[tuple[int, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.upkeep = Upkeep(self.store)

    def finish(self, summary: dict[str, Any] | None = None) -> None:
        """Flushes the writer and writes `finished` with the summary. Outside a `with` block it also gives the lease back."""
        if self.writer is not None:
            self.writer.flush()
        self._end("finished", summary or {})
        if not self._entered:
            self.lease.release()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers of one step (optimizer steps from 1; 0 is before training). The first value of a step and name counts."""
        self.lease.check()
        new = {name: value for name, value in values.items() if (step, name) not in self._metrics}
        now = datetime.now(UTC)
        rows = [
            {
                "row_id": hash_id(self.run_id, self.incarnation, step, name),
                "run_id": self.run_id,
                "incarnation": self.incarnation,
                "step": step,
                "name": name,
                "value": float(value),
                "created_at": now,
            }
            for name, value in new.items()
        ]
        # Until the append has returned, it is unknown whether it landed.
        write = insert_if_absent if self._in_doubt else append_rows
        self._in_doubt = True
        write(self.store, "metrics", rows)
        self._in_doubt = False
        self.upkeep.wrote("metrics")
        self._metrics.update((step, name) for name in new)

    def note(self, payload: dict[str, Any]) -> None:
        """Writes an event `note` with the payload."""
        _write_event(self, "note", payload)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "writer": None}

    def __enter__(self) -> "Run":
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._end(
                    "aborted" if interrupted(error) else "failed",
                    {"error": type(error).__name__, "message": str(error)},
                )
            elif not self.ended:
                self.finish()
        finally:
            self.upkeep.wait()
            self.lease.release()

    def _end(self, event: str, payload: dict[str, Any]) -> None:
        _write_event(self, event, payload)
        self.ended = True


def start_run(store: LanceStore, kind: str, name: str | None = None, config: dict[str, Any] | None = None) -> Run:
    """Starts a run, or resumes the one of that name and brings in what its killed writer left in the journal.

    The run_id is the name, else `<kind>-<utc yyyymmdd-hhmmss>-<4 hex>`. The config is kept as the payload of `started` or `resumed`.
    Raises ConfigError for an unknown kind, a name unfit for a folder or one that a run of another kind has, WriteConflict when
    another process is running it.
    """
    if kind not in RUN_KINDS:
        raise ConfigError(f"There is no run kind {kind!r}.", f"Kinds are {', '.join(RUN_KINDS)}.")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} cannot name a run.", "Use letters, digits, '.', '-' and '_'.")
    run_id = name or f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    _refuse_other_kind(store, run_id, kind)
    lease = leases.take(store, f"run/{run_id}")
    try:
        starts = [event for event in _events(store, run_id) if event["event"] in ("started", "resumed")]
        incarnation = starts[-1]["incarnation"] + 1 if starts else 0
        run = Run(store, run_id, kind, incarnation, config or {}, lease)
        recovered = journal.replay(store, run_id)
        _write_event(run, "resumed" if starts else "started", config or {}, kind=kind, name=name)
        if recovered:
            run.note({"from_journal": recovered})
    except BaseException:
        lease.release()
        raise
    return run


def end_run(store: LanceStore, run: dict[str, Any], lease: Lease, event: str, payload: dict[str, Any]) -> None:
    """Writes the end of a run (a row of list_runs) whose process is gone, under its lease."""
    _write_event(Run(store, run["run_id"], run["kind"], run["incarnation"], run["config"], lease), event, payload)


def get_run(store: LanceStore, run_id: str) -> dict[str, Any]:
    """One run as a dict (keys as in list_runs). Raises StoreNotFound naming runs of similar name."""
    events = _events(store, run_id)
    if not events:
        names = store.read("run_events", columns=["run_id"])["run_id"].unique().to_pylist()
        near = difflib.get_close_matches(run_id, names, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else "`rollhouse runs list` names them."
        raise StoreNotFound(f"There is no run {run_id!r} in {store.uri}.", hint)
    return _fold(events)


def find_run(store: LanceStore, name: str) -> dict[str, Any]:
    """The run of a name, as `naming.run_named` takes it: a whole id, the beginning of one, or `latest`. Returns and raises as get_run and run_named."""
    return get_run(store, run_named(store, name))


def list_runs(store: LanceStore) -> list[dict[str, Any]]:
    """Every run, oldest first.

    Keys: run_id, kind, name, status (running, finished, failed or aborted), started_at, finished_at (None while running), incarnation,
    config (of the latest start), summary (of the latest end; None before), events (how many).
    """
    by_run: dict[str, list[dict[str, Any]]] = {}
    for event in store.read("run_events").to_pylist():
        by_run.setdefault(event["run_id"], []).append(event)
    folded = [_fold(sorted(events, key=lambda event: event["sequence"])) for events in by_run.values()]
    return sorted(folded, key=lambda run: (run["started_at"], run["run_id"]))


def to_json(value: Any) -> str:
    """JSON text for a payload column: what is not JSON becomes its text, a non-finite number null; keys and passwords are blotted out."""
    return json.dumps(redacted_values(_finite(value)), ensure_ascii=False, default=lambda other: redacted(str(other)))


def _fold(events: list[dict[str, Any]]) -> dict[str, Any]:
    starts = [event for event in events if event["event"] in ("started", "resumed")]
    first, last = starts[0], starts[-1]
    ends = [event for event in events if event["event"] in _ENDINGS and event["sequence"] > last["sequence"]]
    end = ends[-1] if ends else None
    return {
        "run_id": first["run_id"],
        "kind": first["kind"],
        "name": first["name"] or first["run_id"],
        "status": end["event"] if end else "running",
        "started_at": first["created_at"],
        "finished_at": end["created_at"] if end else None,
        "incarnation": last["incarnation"],
        "config": json.loads(last["payload"] or "{}"),
        "summary": json.loads(end["payload"] or "{}") if end else None,
        "events": len(events),
    }


def _events(store: LanceStore, run_id: str) -> list[dict[str, Any]]:
    rows = store.read("run_events", filter=f"run_id = {quote(run_id)}").to_pylist()
    return sorted(rows, key=lambda event: event["sequence"])


def _refuse_other_kind(store: LanceStore, run_id: str, kind: str) -> None:
    events = _events(store, run_id)
    if events and events[0]["kind"] != kind:
        raise ConfigError(f"Run {run_id!r} exists and is of kind {events[0]['kind']}, not {kind}.", "Use another name.")


def _write_event(
    run: Run, event: str, payload: dict[str, Any], kind: str | None = None, name: str | None = None
) -> None:
    # Another process that was handed the run may write an event too: whoever inserts the number has it.
    for _ in range(20):
        sequence = run._next_event
        if sequence is None:
            events = run.store.read("run_events", columns=["sequence"], filter=f"run_id = {quote(run.run_id)}")
            sequence = max(events["sequence"].to_pylist(), default=-1) + 1
        run._next_event = None
        row = {
            "row_id": hash_id(run.run_id, sequence),
            "run_id": run.run_id,
            "sequence": sequence,
            "event": event,
            "kind": kind,
            "name": name,
            "incarnation": run.incarnation,
            "payload": to_json(payload),
            "created_at": datetime.now(UTC),
        }
        if insert_if_absent(run.store, "run_events", [row]):
            run._next_event = sequence + 1
            return
    raise StoreNotFound(f"Run {run.run_id!r} has too many writers of events.", "Start it once only.")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
