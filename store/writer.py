"""The one way rollouts enter a house: validated, batched by bytes and age, prompts first, each rollout once."""

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import pyarrow as pa

from .errors import SchemaMismatch, WriteConflict
from .house import House
from .ids import hash_id
from .runs import Run
from .tables import STATUSES, TABLES

# What a rollout refers to, in the order it is written; rollouts come after all of them.
_DEPENDENCIES = ("prompts", "prompt_tokens", "tasks")
_REQUIRED = ("rollout_id", "slot_id", "run_id", "status", "environment", "sample_index", "attempt")

Row = Mapping[str, Any]


class RolloutWriter:
    """Buffers rollouts of one run and commits them: when `max_bytes` are waiting, when the oldest waits for `max_age_s`, on flush().

    A rollout is acknowledged once flush() (or close(), or an automatic flush) has returned; what was only added may be lost by a crash
    and is then collected again. A fresh run appends. A resumed run or an import, and any batch whose append failed half-way, inserts
    only the rollout_ids that are absent, so that nothing is there twice. Thread-safe.

    Attributes:
        written: Rollouts this writer has put into the house.
        skipped: Rollouts it left out because their id was there already.
    """

    def __init__(self, house: House, run: Run, max_bytes: int = 8 << 20, max_age_s: float = 2.0) -> None:
        if run.writer is not None:
            raise WriteConflict(f"Run {run.run_id!r} already has an open writer.", "Share that one, or close it first.")
        run.lease.check()
        self.written = 0
        self.skipped = 0
        self._house, self._run = house, run
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._in_doubt = run.incarnation > 0 or run.kind == "import"
        self._rollouts: list[pa.Table] = []
        self._waiting: dict[str, list[pa.Table]] = {table: [] for table in _DEPENDENCIES}
        self._bytes = 0
        self._known: set[str] = set()
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._failure: BaseException | None = None
        self._closed = False
        run.writer = self

    def add(
        self, rollout: Row, prompt: Row | None = None, task: Row | None = None, prompt_tokens: Row | None = None
    ) -> bool:
        """Takes one rollout and the rows it refers to; returns False when this writer has had its rollout_id before.

        Raises SchemaMismatch for a row that does not fit, and leaves the buffer as it was. Raises what an automatic flush in the
        background ran into.
        """
        with self._lock:
            self._check_open()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            check_rollout(rollout, self._run.run_id)
            data = self._house.to_arrow("rollouts", [rollout])
            given = {"prompts": prompt, "prompt_tokens": prompt_tokens, "tasks": task}
            rows = {table: self._new_row(table, row) for table, row in given.items() if row is not None}
            if rollout["rollout_id"] in self._known:
                self.skipped += 1
                return False
            self._known.add(rollout["rollout_id"])
            self._rollouts.append(data)
            self._bytes += data.nbytes
            for table, row in rows.items():
                if row is not None:
                    self._known.add(row[TABLES[table].key][0].as_py())
                    self._waiting[table].append(row)
                    self._bytes += row.nbytes
            if self._bytes >= self._max_bytes:
                self.flush()
            elif self._timer is None:
                self._start_timer()
            return True

    def flush(self) -> None:
        """Commits what is waiting; when it returns, all that was added is in the house. Raises WriteConflict when the run was taken over."""
        with self._lock:
            self._check_open()
            self._stop_timer()
            self._failure = None
            self._commit_dependencies()
            if self._rollouts:
                self._run.lease.check()
                batch = pa.concat_tables(self._rollouts).combine_chunks()
                inserted = self._commit_rollouts(batch)
                self.written += inserted
                self.skipped += batch.num_rows - inserted
            self._rollouts, self._bytes = [], 0

    def close(self) -> None:
        """Flushes and lets the run have another writer. A second time does nothing."""
        with self._lock:
            if self._closed:
                return
            try:
                self.flush()
            finally:
                self._abandon()

    def __enter__(self) -> "RolloutWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        # What was collected before something failed is kept if it can be; the first error is the one to show.
        with contextlib.suppress(Exception):
            self.close()
        self._abandon()

    def _commit_dependencies(self) -> None:
        for table in _DEPENDENCIES:
            if self._waiting[table]:
                self._house.insert_if_absent(table, pa.concat_tables(self._waiting[table]).combine_chunks())
                self._waiting[table] = []

    def _commit_rollouts(self, batch: pa.Table) -> int:
        if self._in_doubt:
            return self._house.insert_if_absent("rollouts", batch)
        # Until the append has returned, nobody knows whether it landed.
        self._in_doubt = True
        appended = self._house.append("rollouts", batch)
        self._in_doubt = False
        return appended

    def _new_row(self, table: str, row: Row) -> pa.Table | None:
        if table == "prompt_tokens" and not row.get("row_id"):
            key = hash_id(row["prompt_id"], row["tokenizer_hash"], row["template_hash"])
            row = {**row, "row_id": key}
        if row[TABLES[table].key] in self._known:
            return None
        return self._house.to_arrow(table, [row])

    def _start_timer(self) -> None:
        self._timer = threading.Timer(self._max_age_s, self._flush_by_age)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush_by_age(self) -> None:
        with self._lock:
            self._timer = None
            if self._closed or not self._rollouts:
                return
            try:
                self.flush()
            except BaseException as error:
                self._failure = error

    def _check_open(self) -> None:
        if self._closed:
            raise WriteConflict(f"The writer of run {self._run.run_id!r} is closed.", "Open another one.")

    def _abandon(self) -> None:
        self._stop_timer()
        self._closed = True
        if self._run.writer is self:
            self._run.writer = None


def check_rollout(rollout: Row, run_id: str) -> Row:
    """The row, if its columns agree with each other. Raises SchemaMismatch naming the rollout and what is wrong."""
    problem = _problem(rollout, run_id)
    if problem:
        raise SchemaMismatch(f"Rollout {rollout.get('rollout_id')}: {problem}.", "See docs/store.md for its columns.")
    return rollout


def _problem(rollout: Row, run_id: str) -> str | None:
    missing = [name for name in _REQUIRED if rollout.get(name) is None]
    if missing:
        return f"{missing[0]} is missing"
    if rollout["run_id"] != run_id:
        return f"run_id is {rollout['run_id']!r}, but the writer's run is {run_id!r}"
    if rollout["status"] not in STATUSES:
        return f"status {rollout['status']!r} is not one of {', '.join(STATUSES)}"
    reward = rollout.get("reward")
    if isinstance(reward, float) and not math.isfinite(reward):
        return f"reward is {reward}; write null and an error_type when there is no verdict"
    return _token_problem(rollout.get("token_ids"), rollout.get("loss_mask"), rollout.get("logprobs"), rollout)


def _token_problem(
    token_ids: Sequence[int] | None, loss_mask: Sequence[int] | None, logprobs: Sequence[float] | None, rollout: Row
) -> str | None:
    if (token_ids is None) != (loss_mask is None):
        return "token_ids and loss_mask go together; one of them is null"
    if token_ids is None or loss_mask is None:
        return "logprobs without token_ids" if logprobs else None
    if len(token_ids) != len(loss_mask):
        return f"{len(token_ids)} token_ids but {len(loss_mask)} in loss_mask"
    if logprobs is not None and len(logprobs) != sum(loss_mask):
        return f"{sum(loss_mask)} sampled tokens but {len(logprobs)} logprobs"
    if logprobs is not None and any(map(math.isnan, logprobs)):
        return "a logprob is not a number"
    starts = [span["start"] for span in rollout.get("version_spans") or ()]
    if starts != sorted(set(starts)) or any(not 0 <= start <= len(token_ids) for start in starts):
        return "version_spans do not rise within token_ids"
    return None
