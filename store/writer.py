"""The one way rollouts enter a store: validated, journaled, batched by bytes and age, prompts first, each rollout once."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType

import pyarrow as pa

from ..base.errors import SchemaMismatch, WriteConflict, one_line
from .appending import append_rows, insert_if_absent, to_arrow
from .journal import JOURNALED, Journal, has_journal
from .lance_store import LanceStore
from .repair import remove_copies
from .rollout import Rollout
from .rows import rollout_rows
from .runs import Run
from .tables import TABLES
from .tokenizers import KeptTokenizers
from .upkeep import UpkeepPolicy
from .validation import check_rollouts, surely_fine

# What a rollout refers to, in the order it is written; rollouts come after all of them, and before what refers to them.
_DEPENDENCIES = JOURNALED[: JOURNALED.index("rollouts")]
_NEVER = float("inf")
_MOST_KEYS = 500_000


class KnownKeys:
    """The keys a writer has seen, in bounded memory: when there are too many the oldest are forgotten, and `complete` becomes False.

    A writer that has forgotten keys no longer knows alone what it wrote: it inserts if absent.
    """

    def __init__(self, limit: int = _MOST_KEYS) -> None:
        self.complete = True
        self._limit = limit
        self._keys: dict[str, None] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        """Remembers a key."""
        self._keys[key] = None
        if len(self._keys) > self._limit:
            self.complete = False
            for old in list(self._keys)[: self._limit // 10]:
                del self._keys[old]


class RolloutWriter:
    """Buffers rollouts of one run and commits them: when `max_bytes` are waiting, when the oldest waits for `max_age_s`, on flush().

    A rollout is acknowledged once flush() (or close(), or an automatic flush) has returned: it is in the store, once. What was added and
    not yet acknowledged stands in the journal, and comes in when the run is started again; on an object store, which keeps no journal,
    it is lost with the process and collected again. A fresh run appends. A resumed run or an import, and any batch whose append failed
    half-way, inserts only the rollout_ids that are absent. Thread-safe: who fills the buffer commits it, and the others wait, so that
    never more than `max_bytes` and one addition are held.

    Attributes:
        written: Rollouts this writer has put into the store.
        skipped: Rollouts it left out because their id was there already.
    """

    def __init__(
        self,
        store: LanceStore,
        run: Run,
        max_bytes: int = 8 << 20,
        max_age_s: float = 2.0,
        *,
        journal: bool = True,
        policy: UpkeepPolicy | None = None,
    ) -> None:
        """`journal=False` does without one: quicker, and a crash loses what was not acknowledged. `policy` is when upkeep is due."""
        if run.writer is not None:
            raise WriteConflict(f"Run {run.run_id!r} already has an open writer.", "Share that one, or close it first.")
        run.lease.check()
        self.written = 0
        self.skipped = 0
        self._store, self._run = store, run
        self._tokenizers = KeptTokenizers(store, run.run_id)
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._in_doubt = run.incarnation > 0 or run.kind == "import"
        self._waiting: dict[str, list[pa.RecordBatch]] = {table: [] for table in JOURNALED}
        self._bytes = 0
        self._rollouts, self._references = KnownKeys(), KnownKeys()
        self._places: Counter[str] = Counter()
        self._journal = Journal(store, run.run_id, run.incarnation) if journal and has_journal(store) else None
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._failure: BaseException | None = None
        self._closed = False
        if policy is not None:
            run.upkeep.policy = policy
        run.writer = self

    def add(self, rollout: Rollout) -> bool:
        """Takes one rollout and what it refers to; returns False when this writer has had its rollout_id before.

        Ids that it lacks are filled in (`rows.placed`) in what is written; `rollout` itself stays as it is.
        Raises SchemaMismatch for a rollout that does not fit, and OSError when the journal's disk is full; the buffer is then as it was.
        Raises the error of an automatic flush in the background.
        """
        return self.add_many((rollout,)) == 1

    def add_many(self, rollouts: Sequence[Rollout]) -> int:
        """Takes rollouts, converted all at once: half the time of one by one. Returns how many were new. Raises as `add` does, and then takes none."""
        if not rollouts:
            return 0
        with self._lock:
            self._check_open()
            places = self._places.copy()
            try:
                rows = rollout_rows(rollouts, self._run.run_id, self._references, places)
                batches = rows.batches()
                if len(rows.rollouts) != 1 or not surely_fine(rows.rollouts[0], self._run.run_id):
                    check_rollouts(batches["rollouts"], self._run.run_id)
            except (SchemaMismatch, MemoryError):
                raise
            except (
                Exception
            ) as error:  # whatever a value makes a conversion raise: it is the value's fault, not the store's
                raise SchemaMismatch(f"A rollout cannot be converted: {one_line(error)}.", "See docs/store.md for its columns.") from error  # fmt: skip
            taken = self._take(batches)
            self._places = places
            return taken

    def add_table(
        self,
        rollouts: pa.Table,
        prompts: pa.Table | None = None,
        tasks: pa.Table | None = None,
        prompt_tokens: pa.Table | None = None,
    ) -> int:
        """Takes many rollouts and the rows they refer to as Arrow, without a Python object for each token. Returns how many were new.

        Columns may be in any order, and those missing are null; prompt_tokens need their row_id. Raises as add does, and then
        takes none of the chunk at fault: chunks are of `max_bytes`.
        """
        given = {"prompts": prompts, "prompt_tokens": prompt_tokens, "tasks": tasks}
        with self._lock:
            self._check_open()
            references = {table: _one_batch(to_arrow(table, rows)) for table, rows in given.items() if rows is not None}
            data = to_arrow("rollouts", rollouts)
            rows_at_once = max(1, int(self._max_bytes / max(1.0, data.nbytes / max(1, data.num_rows))))
            new = 0
            for start in range(0, data.num_rows, rows_at_once):
                batch = _one_batch(data.slice(start, rows_at_once))
                check_rollouts(batch, self._run.run_id)
                taken = self._take({**references, "rollouts": batch})
                references = references if not taken else {}
                new += taken
            return new

    def has(self, key: str) -> bool:
        """Whether this writer took the prompt, the task or the row of prompt_tokens of that key, or `tell` named it."""
        return key in self._references

    def tell(self, keys: Iterable[str]) -> None:
        """Names keys of prompts, tasks and prompt_tokens that are in the store: they are not written again."""
        with self._lock:
            for key in keys:
                self._references.add(key)

    def flush(self) -> None:
        """Commits what is waiting; when it returns, all that was added is in the store. Raises WriteConflict when the run was taken over."""
        with self._lock:
            self._check_open()
            self._stop_timer()
            self._failure = None
            for table in _DEPENDENCIES:
                if self._waiting[table]:
                    insert_if_absent(self._store, table, _joined(self._waiting[table]))
                    self._waiting[table] = []
                    self._run.upkeep.wrote(table)
            if self._waiting["rollouts"]:
                rows = _joined(self._waiting["rollouts"])
                self._tokenizers.keep(rows["tokenizer_hash"].unique().to_pylist())
                self._commit_rollouts(rows)
                self._waiting["rollouts"] = []
                self._run.upkeep.wrote("rollouts")
            if self._waiting["scores"]:
                insert_if_absent(self._store, "scores", _joined(self._waiting["scores"]))
                self._waiting["scores"] = []
                self._run.upkeep.wrote("scores")
            self._bytes = 0
            if self._journal is not None:
                self._journal.clear()

    def close(self) -> None:
        """Flushes and lets the run have another writer. A second time does nothing."""
        with self._lock:
            if self._closed:
                return
            try:
                self.flush()
                if self._run.lease.took_over:
                    # The holder before us may have woken between a check and its append, and ended before it could put that right.
                    remove_copies(self._store, "rollouts", self._run.run_id)
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

    def _take(self, batches: dict[str, pa.RecordBatch]) -> int:
        """Journals and buffers the rows whose key is new; returns how many of them are rollouts."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        new = {table: self._unknown(table, batch) for table, batch in batches.items()}
        taken = new["rollouts"].num_rows
        self.skipped += batches["rollouts"].num_rows - taken
        if not taken:
            return 0
        new = {table: batch for table, batch in new.items() if batch.num_rows}
        if self._journal is not None:
            self._journal.add(new)
        for table, batch in new.items():
            known = self._known(table)
            for key in batch.column(TABLES[table].key).to_pylist():
                known.add(key)
            self._waiting[table].append(batch)
            self._bytes += batch.get_total_buffer_size()
        if self._bytes >= self._max_bytes:
            self.flush()
        elif self._timer is None:
            self._start_timer()
        return taken

    def _unknown(self, table: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        known, here = self._known(table), set()
        fresh = []
        for row, key in enumerate(batch.column(TABLES[table].key).to_pylist()):
            if key not in known and key not in here:
                here.add(key)
                fresh.append(row)
        return batch if len(fresh) == batch.num_rows else batch.take(pa.array(fresh, pa.int64()))

    def _known(self, table: str) -> KnownKeys:
        return self._rollouts if table == "rollouts" else self._references

    def _commit_rollouts(self, batch: pa.Table) -> None:
        lease = self._run.lease
        lease.check()
        doubt, self._in_doubt = self._in_doubt, True  # until all of this has returned, it is unknown whether it landed
        if doubt or not self._rollouts.complete:
            inserted = insert_if_absent(self._store, "rollouts", batch)
        else:
            inserted = append_rows(self._store, "rollouts", batch, before_commit=lease.check)
        try:
            lease.check()
        except WriteConflict:
            # Taken over between the last check and the commit. The successor may have had the same rollouts from the journal or made
            # them again: the copies that came second go.
            remove_copies(self._store, "rollouts", self._run.run_id)
            raise
        self._in_doubt = doubt
        self.written += inserted
        self.skipped += batch.num_rows - inserted

    def _start_timer(self) -> None:
        if self._max_age_s == _NEVER:
            return
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
            if self._closed or not self._waiting["rollouts"]:
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
        if self._journal is not None:
            self._journal.close()
        if self._run.writer is self:
            self._run.writer = None
        self._run.upkeep.wait()


def _one_batch(data: pa.Table) -> pa.RecordBatch:
    batches = data.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=data.schema)


def _joined(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches).combine_chunks()
