"""Rollouts on their way from the event loop to the writer: gathered, handed over many at once, held back when the writer is behind."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..base.errors import SchemaMismatch
from ..store.rollout import Rollout
from ..store.writer import RolloutWriter
from .episode import Slot, without_content

# A row alone costs the writer four times what it costs among many. So long a row waits for others.
_GATHER_S = 0.05
_BATCH_ROWS = 256
_BATCH_BYTES = 4 << 20
_HELD_BYTES = 32 << 20
_UNSTORABLE = (SchemaMismatch, UnicodeEncodeError)


@dataclass
class Entry:
    """One episode to be written.

    Attributes:
        rollout: Its main row; once written, the rollout that the writer took.
        others: Its further rows.
    """

    slot: Slot
    rollout: Rollout
    others: tuple[Rollout, ...] = ()

    @property
    def rows(self) -> list[Rollout]:
        """All rows, the main one first."""
        return [self.rollout, *self.others]

    @property
    def size(self) -> int:
        """About how many bytes it holds as Python objects."""
        return sum(8192 + 80 * (row.n_tokens or 0) for row in self.rows)


class Feed:
    """Takes rollouts on the event loop and writes them on one thread, so that a commit never holds up the rollouts in flight.

    `pump` has to run beside those who `put`; `close` ends it once all is written. Whatever happened before, `end` writes what is left.

    Attributes:
        seconds: The thread was at work.
    """

    def __init__(self, writer: RolloutWriter, on_written: Callable[[Entry], None]) -> None:
        """`on_written` is called on the event loop with each entry, in the order in which they were put."""
        self._writer = writer
        self._on_written = on_written
        self._pool = ThreadPoolExecutor(1, "rollhouse-writer")
        self._waiting: list[Entry] = []
        self._batch: list[Entry] = []
        self._bytes = 0
        self._closed = False
        self._some, self._enough, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._room.set()
        self.seconds = 0.0

    async def put(self, entry: Entry) -> None:
        """Hands over a rollout; waits while the writer is behind."""
        self._waiting.append(entry)
        self._bytes += entry.size
        self._some.set()
        if len(self._waiting) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._enough.set()
        if self._bytes >= _HELD_BYTES:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Nothing more will come: `pump` writes what waits and returns."""
        self._closed = True
        self._some.set()
        self._enough.set()

    async def pump(self) -> None:
        """Writes what is put, until closed. Raises what the writer raises."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), _GATHER_S)
            if not self._waiting:
                if self._closed:
                    return
                self._some.clear()
                self._enough.clear()
                continue
            self._take_all()
            batch = list(self._batch)
            await loop.run_in_executor(self._pool, self._timed, self._write)
            for entry in batch:
                self._on_written(entry)

    async def finish(self, finish: Callable[[], None]) -> None:
        """Calls `finish` on the thread, after all that was handed over: a last commit that does not block the event loop."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, finish)

    def end(self, finish: Callable[[], None]) -> None:
        """Writes what is left, calls `finish` (the writer's close or flush) and ends the thread. Blocks; also for a cancelled loop."""

        def last() -> None:
            try:
                self._write()
            finally:
                finish()

        with self._pool:
            # First whatever the thread is at, then this: it is one thread.
            self._pool.submit(lambda: None).result()
            self._take_all()
            self._pool.submit(last).result()

    def _take_all(self) -> None:
        self._batch += self._waiting
        self._waiting = []
        self._bytes = 0
        if not self._closed:
            self._some.clear()
            self._enough.clear()
        self._room.set()

    def _timed(self, work: Callable[[], None]) -> None:
        started = time.perf_counter()
        try:
            work()
        finally:
            self.seconds += time.perf_counter() - started

    def _write(self) -> None:
        """On the thread. The batch is forgotten only once the writer has it."""
        if not self._batch:
            return
        try:
            self._write_many(self._batch)
        except _UNSTORABLE:
            # One of them fits no table; the writer has taken none.
            for entry in self._batch:
                self._write_one(entry)
        self._batch = []

    def _write_many(self, entries: Sequence[Entry]) -> None:
        self._writer.add_many([row for entry in entries for row in entry.rows])

    def _write_one(self, entry: Entry) -> None:
        """A rollout that no table can hold becomes an error row; when its task is at fault, one without a task."""
        for _ in range(2):
            try:
                return self._write_many([entry])
            except _UNSTORABLE as error:
                entry.rollout = without_content(entry.rollout, error)
                entry.others = tuple(without_content(row, error) for row in entry.others)
        entry.rollout = without_task(entry.rollout)
        entry.others = tuple(map(without_task, entry.others))
        self._write_many([entry])


def without_task(rollout: Rollout) -> Rollout:
    """The rollout, referring to no task and no prompt."""
    return rollout.changed(task=None, task_id=None, prompt=None, prompt_id=None)
