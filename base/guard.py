"""Calls that may hang, crash or eat memory, made in processes that can be thrown away."""

import asyncio
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .errors import RollhouseError

_WORKER = Path(__file__).with_name("guard_worker.py")
_START_S = 120.0
# A call that has run so long is a slow one, for which others are not to wait.
_QUICK_S = 1.0
_SLOW_FOR_EACH = 2
# No secret of this process; and a value must not depend on the order of a set.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
_KEPT = ("LD_LIBRARY_PATH", "TMPDIR")


class GuardError(RollhouseError):
    """A guarded call gave no value: the function raised, or one of those below."""


class GuardTimeout(GuardError):
    """The call took too long; its process was killed."""


class GuardCrash(GuardError):
    """The process of the call died: out of memory, a fault in native code, or a kill."""


class GuardUnavailable(GuardError):
    """The call was never made: no process could be started, or the pool is closed."""


class GuardedPool:
    """Runs named functions in worker processes with bounds on time and memory: `await pool.call("package.module:function", …)`.

    Arguments and values are JSON; no code and no pickle travels. A worker starts when all others are busy, keeps what it
    imported from call to call, sees no variable of this process's environment, and is killed and replaced when a call exceeds
    a bound. Workers end with this process, however it ends. Usable from any thread and any event loop.
    """

    def __init__(
        self,
        size: int,
        limit_s: float,
        *,
        memory_mb: int = 2048,
        modules: Sequence[str] = (),
        start_s: float = _START_S,
    ) -> None:
        """
        Args:
            size: Calls at once; others wait, and waiting does not count as time. A call that has run for a second makes room for another as long
                as there are at most twice `size` such ones, so there are three times as many processes at most.
            limit_s: Seconds one call may take.
            memory_mb: Address space of one worker.
            modules: Imported when a worker starts, before its first call's time runs.
            start_s: Seconds a worker may take to start.
        """
        self.size = size
        self.limit_s = limit_s
        self.start_s = start_s
        self._first_line = {
            "path": [os.path.abspath(place) for place in sys.path],
            "modules": list(modules),
            "memory_bytes": memory_mb << 20,
            "limit_s": limit_s,
        }
        self._threads = ThreadPoolExecutor(size * (1 + _SLOW_FOR_EACH), thread_name_prefix="guard")
        self._quick = threading.BoundedSemaphore(size)
        self._slow = threading.BoundedSemaphore(size * _SLOW_FOR_EACH)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._alive: set[_Worker] = set()
        self._closed = False
        self._finalizer = weakref.finalize(self, _kill_all, self._alive)

    async def call(self, function: str, *args: Any) -> Any:
        """The function's value. Raises GuardTimeout, GuardCrash, GuardUnavailable, or GuardError when the function raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.call_sync, function, *args)

    def call_sync(self, function: str, *args: Any) -> Any:
        """As `call`, for code without an event loop."""
        request = json.dumps({"function": function, "args": args}).encode() + b"\n"
        lane = _Lane(self._quick)
        try:
            return self._ask(request, function, lane)
        finally:
            lane.leave()

    def close(self) -> None:
        """Kills all workers; calls under way raise GuardCrash."""
        self._closed = True
        self._finalizer()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: bytes, function: str, lane: "_Lane") -> Any:
        worker = self._worker()
        kept = False
        try:
            try:
                worker.send(request)
            except OSError:  # it died while it was idle, which is not this call's fault
                self._drop(worker)
                worker = self._start()
                worker.send(request)
            reply = self._reply(worker, lane)
            kept = True
        except TimeoutError:
            raise GuardTimeout(f"{function} took longer than {self.limit_s:g} s.", "Raise the limit if that was not enough.") from None  # fmt: skip
        except (EOFError, OSError, ValueError):
            raise GuardCrash(f"The process that ran {function} died.", "It may have wanted more memory than it may have.") from None  # fmt: skip
        finally:
            # Those that stood in for slow ones are not kept.
            if kept and not self._closed and self._idle.qsize() < self.size:
                self._idle.put(worker)
            else:
                self._drop(worker)
        if "error" in reply:
            raise GuardError(f"{function} failed: {reply['error']}.", "It was given something it cannot handle.")
        return reply["value"]

    def _reply(self, worker: "_Worker", lane: "_Lane") -> Any:
        if self.limit_s > _QUICK_S:
            try:
                return worker.read(_QUICK_S)
            except TimeoutError:
                lane.change(self._slow)
        return worker.read(self.limit_s - _QUICK_S if self.limit_s > _QUICK_S else self.limit_s)

    def _worker(self) -> "_Worker":
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._start()

    def _start(self) -> "_Worker":
        if self._closed:
            raise GuardUnavailable("The pool of guarded processes is closed.", "Make another one.")
        worker = _Worker()
        self._alive.add(worker)
        try:
            worker.send(json.dumps(self._first_line).encode() + b"\n")
            greeting = worker.read(self.start_s)
        except (TimeoutError, EOFError, OSError) as error:
            self._drop(worker)
            raise GuardUnavailable(
                "A guarded process did not start.", "Try again when the machine is less busy."
            ) from error
        if "error" in greeting:
            self._drop(worker)
            raise GuardUnavailable(f"A guarded process did not start: {greeting['error']}.", "Install what it lacks.")
        return worker

    def _drop(self, worker: "_Worker") -> None:
        self._alive.discard(worker)
        worker.kill()


class _Lane:
    """A call's place among those that run at once."""

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


class _Worker:
    """One process, asked one thing at a time."""

    def __init__(self) -> None:
        self._unread = b""
        self._process = subprocess.Popen(
            # -s -P: neither the user's own packages nor the working directory decide what is imported.
            [sys.executable, "-s", "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # nothing is left to be flushed into a pipe that broke
            cwd="/",
            env=_ENVIRONMENT | {name: os.environ[name] for name in _KEPT if name in os.environ},
            start_new_session=True,  # Ctrl-C reaches us, and we stop it
        )

    def send(self, line: bytes) -> None:
        """Raises OSError when the process is gone."""
        assert self._process.stdin is not None
        while line:
            line = line[os.write(self._process.stdin.fileno(), line) :]

    def read(self, seconds: float) -> Any:
        """One line of JSON. Raises TimeoutError, or EOFError when the process is gone."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        poller = select.poll()  # select.select fails on descriptors past 1023
        poller.register(self._process.stdout, select.POLLIN)
        while b"\n" not in self._unread:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise EOFError
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        """Ends the process and what it started; harmless when it is gone."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _kill_all(workers: set[_Worker]) -> None:
    for worker in list(workers):
        worker.kill()
