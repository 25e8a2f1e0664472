"""A pool of killable worker processes, for calls that may hang, crash or eat memory."""

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .worker_process import (
    WorkerDied,
    WorkerError,
    WorkerProcess,
    WorkerSetup,
    WorkerTimeout,
    WorkerUnavailable,
    kill_at_exit,
)

# A call that has run this long is a slow one, and no longer takes the place of a quick one.
_QUICK_S = 1.0
_SLOW_FOR_EACH = 2


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
            size: Calls at once; others wait, and waiting does not count as time. A call that has run for a second makes room for another as long
                as there are at most twice `size` of them, so there are at most three times as many processes.
            limit_s: Seconds one call may take; the start of a worker does not count.
            memory_mb: Address space of one worker.
            modules, folders, site: As in WorkerSetup.
        """
        self.size = size
        self.limit_s = limit_s
        self._setup = WorkerSetup(
            modules=modules, folders=folders, site=site, memory_bytes=memory_mb << 20, cpu_s=limit_s
        )
        self._threads = ThreadPoolExecutor(size * (1 + _SLOW_FOR_EACH), thread_name_prefix="workers")
        self._quick = threading.BoundedSemaphore(size)
        self._slow = threading.BoundedSemaphore(size * _SLOW_FOR_EACH)
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        self._alive: set[WorkerProcess] = set()
        self._closed = False
        self._finalizer = kill_at_exit(self, self._alive)

    async def call(self, function: str, *args: Any) -> Any:
        """The function's value. Raises WorkerTimeout, WorkerDied, WorkerUnavailable, or WorkerError when the function raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.call_sync, function, *args)

    def call_sync(self, function: str, *args: Any) -> Any:
        """As `call`, for code without an event loop."""
        lane = _Lane(self._quick)
        try:
            return self._call(function, args, lane)
        finally:
            lane.leave()

    def close(self) -> None:
        """Kills all workers; calls under way raise WorkerDied."""
        self._closed = True
        self._finalizer()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: str, args: Sequence[Any], lane: "_Lane") -> Any:
        worker = self._worker()
        sound = False
        try:
            try:
                worker.request(function, args)
            except OSError:  # it died while it was idle
                self._drop(worker)
                worker = self._start()
                worker.request(function, args)
            value = self._reply(worker, function, lane)
            sound = True
            return value
        except TimeoutError:
            raise WorkerTimeout(f"{function} took longer than {self.limit_s:g} s.", "Raise the limit if the work needs more time.") from None  # fmt: skip
        except WorkerError as error:
            sound = not isinstance(
                error, WorkerDied | WorkerUnavailable
            )  # the function raised, and the process is well
            raise
        finally:
            # Workers that stood in for slow ones are not kept.
            if sound and not self._closed and self._idle.qsize() < self.size:
                self._idle.put(worker)
            else:
                self._drop(worker)

    def _reply(self, worker: WorkerProcess, function: str, lane: "_Lane") -> Any:
        if self.limit_s > _QUICK_S:
            try:
                return worker.reply(function, _QUICK_S)
            except TimeoutError:
                lane.change(self._slow)
        return worker.reply(function, self.limit_s - _QUICK_S if self.limit_s > _QUICK_S else self.limit_s)

    def _worker(self) -> WorkerProcess:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._start()

    def _start(self) -> WorkerProcess:
        if self._closed:
            raise WorkerUnavailable("The pool of worker processes is closed.", "Make another one.")
        worker = WorkerProcess(self._setup)
        self._alive.add(worker)
        return worker

    def _drop(self, worker: WorkerProcess) -> None:
        self._alive.discard(worker)
        worker.kill()


class _Lane:
    """A call's place among the calls that run at once."""

    def __init__(self, places: threading.Semaphore) -> None:
        places.acquire()
        self._held = places

    def change(self, places: threading.Semaphore) -> None:
        """Moves to other places if one is free."""
        if places.acquire(blocking=False):
            self._held.release()
            self._held = places

    def leave(self) -> None:
        self._held.release()
