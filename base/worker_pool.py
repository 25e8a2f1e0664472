"""A pool of killable worker processes, for calls that may hang, crash or eat memory."""

import asyncio
import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .worker_process import (
    WorkerError,
    WorkerProcess,
    WorkerSetup,
    WorkerTimeout,
    WorkerUnavailable,
    kill_at_exit,
)

# A call that has run this long is a slow one, and leaves its place to the calls that wait.
_QUICK_S = 0.5
_SLOW_FOR_EACH = 2
_SLOW_NICENESS = 10


class WorkerPool:
    """Runs named functions in worker processes with bounds on time and memory: `await pool.call("package.module:function", …)`.

    A worker starts when all others are busy, keeps what it imported from call to call, sees no variable of this process's environment, and is killed
    and replaced when a call exceeds a bound. Workers end with this process, however it ends. Usable from any thread and any event loop.
    """

    def __init__(
        self,
        size: int,
        limit_s: float,
        *,
        memory_mb: int = 2048,
        modules: Sequence[str] = (),
        folders: Sequence[str] = (),
        site: bool = True,
    ) -> None:
        """
        Args:
            size: Calls at once; others wait, and waiting does not count as time. A call that has run for half a second ends and begins again, at a
                lower priority, in one of twice `size` places for slow calls. So slow calls hold up quick ones for half a second each.
            limit_s: Seconds one call may take; the start of a worker does not count.
            memory_mb: Address space of one worker.
            modules, folders, site: As in WorkerSetup.
        """
        self.size = size
        self.limit_s = limit_s
        self._setup = WorkerSetup(
            modules=modules, folders=folders, site=site, memory_bytes=memory_mb << 20, cpu_s=limit_s, forks=True
        )
        self._quick = ThreadPoolExecutor(size, thread_name_prefix="workers")
        self._slow = ThreadPoolExecutor(size * _SLOW_FOR_EACH, thread_name_prefix="slow-workers")
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        self._slow_idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        self._alive: set[WorkerProcess] = set()
        self._closed = False
        self._finalizer = kill_at_exit(self, self._alive)

    async def call(self, function: str, *args: Any) -> Any:
        """The function's value. Raises WorkerTimeout, WorkerDied, WorkerUnavailable, or WorkerError when the function raises."""
        loop = asyncio.get_running_loop()
        value = await loop.run_in_executor(self._executor(self._quick), self._begin, function, args)
        return await asyncio.wrap_future(value) if isinstance(value, Future) else value

    def call_sync(self, function: str, *args: Any) -> Any:
        """As `call`, for code without an event loop."""
        value = self._executor(self._quick).submit(self._begin, function, args).result()
        return value.result() if isinstance(value, Future) else value

    def close(self) -> None:
        """Kills all workers; calls under way raise WorkerDied."""
        self._closed = True
        self._finalizer()
        for threads in (self._quick, self._slow):
            threads.shutdown(wait=False, cancel_futures=True)

    def _executor(self, threads: ThreadPoolExecutor) -> ThreadPoolExecutor:
        if self._closed:
            raise WorkerUnavailable("The pool of worker processes is closed.", "Make another one.")
        return threads

    def _begin(self, function: str, args: Sequence[Any]) -> "Any | Future[Any]":
        """The value of a quick call, or the future of a slow one."""
        within_s = min(self.limit_s, _QUICK_S)
        try:
            return self._run(self._idle, function, args, within_s)
        except TimeoutError:
            if self.limit_s <= _QUICK_S:
                raise self._timeout(function) from None
        return self._executor(self._slow).submit(self._finish, function, args)

    def _finish(self, function: str, args: Sequence[Any]) -> Any:
        """The value of a slow call."""
        try:
            return self._run(self._slow_idle, function, args, self.limit_s)
        except TimeoutError:
            raise self._timeout(function) from None

    def _run(
        self, idle: "queue.SimpleQueue[WorkerProcess]", function: str, args: Sequence[Any], within_s: float
    ) -> Any:
        """The value. Raises TimeoutError for a call that takes longer; its process is ended."""
        worker = self._worker(idle)
        sound = False
        try:
            try:
                worker.request(function, args)
            except OSError:  # it died while it was idle
                self._drop(worker)
                worker = self._start(idle)
                worker.request(function, args)
            value = worker.reply(function, within_s)
            sound = True
            return value
        except TimeoutError:
            sound = worker.interrupt()
            raise
        except WorkerError:
            sound = worker.is_alive()
            raise
        finally:
            if sound and not self._closed:
                idle.put(worker)
            else:
                self._drop(worker)

    def _timeout(self, function: str) -> WorkerTimeout:
        return WorkerTimeout(f"{function} took longer than {self.limit_s:g} s.", "Raise the limit if the work needs more time.")  # fmt: skip

    def _worker(self, idle: "queue.SimpleQueue[WorkerProcess]") -> WorkerProcess:
        try:
            return idle.get_nowait()
        except queue.Empty:
            return self._start(idle)

    def _start(self, idle: "queue.SimpleQueue[WorkerProcess]") -> WorkerProcess:
        if self._closed:
            raise WorkerUnavailable("The pool of worker processes is closed.", "Make another one.")
        worker = WorkerProcess(replace(self._setup, niceness=_SLOW_NICENESS if idle is self._slow_idle else 0))
        self._alive.add(worker)
        return worker

    def _drop(self, worker: WorkerProcess) -> None:
        self._alive.discard(worker)
        worker.kill()
