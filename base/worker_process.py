"""A killable worker process: calls named functions with JSON arguments, within bounds on time and memory.

No code and no pickle crosses the pipe: arguments and values are JSON, a large binary value comes as bytes. See `worker_main` for the protocol.
`worker_pool` runs several of them.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import RollhouseError

MAIN = Path(__file__).with_name("worker_main.py")
"""The program of a worker; it imports the standard library alone."""
_START_S = 120.0
_FORK_S = 20.0
_WATCH_EVERY_S = 0.02
# No secret of this process; and a value must not depend on the order of a set.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
_KEPT = ("LD_LIBRARY_PATH", "TMPDIR")


class WorkerError(RollhouseError):
    """A call returned no value: the function raised, or one of the errors below.

    `fields` are `type`, `message` and `fix` when the function raised an error of rollhouse; else None.
    """

    fields: dict[str, str] | None = None


class WorkerTimeout(WorkerError):
    """The call took too long; its process was killed."""


class WorkerDied(WorkerError):
    """The process of the call died: out of memory, a fault in native code, or a kill.

    `status` is its exit status, negative for a signal; `over_memory`: whether it held more than `resident_bytes`.
    """

    status: int | None = None
    over_memory = False


class WorkerUnavailable(WorkerError):
    """The call was never made: no process could be started, or the pool is closed.

    `import_error` is the error of a module of its setup; None for another cause.
    """

    import_error: str | None = None


def isolated_environment() -> dict[str, str]:
    """Environment variables of a worker that must see none of this process's secrets."""
    return _ENVIRONMENT | {name: os.environ[name] for name in _KEPT if name in os.environ}


@dataclass(frozen=True)
class WorkerSetup:
    """How a worker process runs.

    Attributes:
        modules: Imported when it starts, before its first call.
        folders: Put in front of its import path.
        path: Its import path; None leaves it what a bare interpreter has. The default is this process's.
        memory_bytes: Limit of its address space, set by the kernel; None is no limit.
        resident_bytes: The parent kills a worker that holds more memory than this, with all that it started; looked at fifty times a second, on Linux
            only. None is no limit.
        launcher: A command that starts `worker_main` somewhere else (in a sandbox), with this process's pipes as its input and output; empty starts
            it here.
        file_bytes: Largest file it may write; None is no limit.
        reply_bytes: Longest JSON reply; None is no limit.
        cpu_s: CPU seconds of one call, beside the time limit of the call; None is no limit.
        environment: Environment variables; None inherits this process's. The default has none of them.
        cwd: Its working directory.
        forks: Whether a process that imported the modules forks the one that runs the calls: `interrupt` then replaces that one in milliseconds.
        niceness: Added to its niceness: calls of a high one leave the processor to others.
        site: Whether site-packages are importable; without them it starts in half the time.
        start_s: Seconds it may take to start.
    """

    modules: Sequence[str] = ()
    folders: Sequence[str] = ()
    path: Sequence[str] | None = field(default_factory=lambda: tuple(sys.path))
    memory_bytes: int | None = None
    resident_bytes: int | None = None
    file_bytes: int | None = 1 << 20
    reply_bytes: int | None = 1 << 20
    cpu_s: float | None = None
    environment: Mapping[str, str] | None = field(default_factory=isolated_environment)
    cwd: str = "/"
    forks: bool = False
    niceness: int = 0
    site: bool = True
    start_s: float = _START_S
    launcher: Sequence[str] = ()

    def first_line(self) -> bytes:
        """The setup as `worker_main` reads it."""
        path = None if self.path is None else [os.path.abspath(place) for place in self.path]
        names = ("memory_bytes", "file_bytes", "reply_bytes", "cpu_s", "forks", "niceness")
        lists = {"modules": list(self.modules), "folders": list(self.folders), "path": path}
        return json.dumps(lists | {name: getattr(self, name) for name in names}).encode() + b"\n"


class WorkerProcess:
    """One worker process; one call at a time. Ends with this process, however that ends.

    Attributes:
        pid: Its process id.

    Raises WorkerUnavailable when it does not start.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        self._unread = b""
        self._over_memory = False
        self._got = False  # the call under way was read by a process that forks
        self._process = subprocess.Popen(
            # -s -P: neither the user's own packages nor the working directory decide what is imported.
            setup.launcher or [sys.executable, "-s", "-P", *([] if setup.site else ["-S"]), str(MAIN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # nothing is left to be flushed into a broken pipe
            cwd=setup.cwd,
            env=setup.environment,
            start_new_session=True,  # Ctrl-C reaches this process, which stops the worker
        )
        self.pid = self._process.pid
        if setup.resident_bytes is not None:
            threading.Thread(target=self._watch, args=(setup.resident_bytes,), daemon=True).start()
        try:
            self._send(setup.first_line())
            greeting = self._message(_deadline(setup.start_s))
        except (TimeoutError, EOFError, OSError) as error:
            self.kill()
            if self._over_memory:
                raise self._died("its start") from error
            raise WorkerUnavailable("A worker process did not start.", "Try again when the machine is less busy.") from error  # fmt: skip
        except BaseException:
            self.kill()
            raise
        if "error" in greeting:
            self.kill()
            failed = WorkerUnavailable(f"A worker process did not start: {greeting['error']}.", "Install the package it needs.")  # fmt: skip
            failed.import_error = greeting["error"]
            raise failed
        self._runs = int(greeting["ready"])

    def call(self, function: str, args: Sequence[Any] | Mapping[str, Any], timeout_s: float | None) -> Any:
        """The value of `package.module:function`, or bytes (a bytearray) for a payload. See `request` and `reply` for the two halves."""
        self.request(function, args)
        return self.reply(function, timeout_s)

    def request(self, function: str, args: Sequence[Any] | Mapping[str, Any]) -> None:
        """Sends a call. Raises OSError when the process is gone, which is not this call's fault."""
        self._got = False
        self._send(json.dumps({"function": function, "args": args}).encode() + b"\n")

    def reply(self, function: str, timeout_s: float | None) -> Any:
        """The value of the call under way.

        Args:
            timeout_s: None waits as long as it takes.

        Raises TimeoutError, after which the call goes on and `reply` may be called again or the process killed; WorkerDied when the process is
        gone; WorkerError when the function raises.
        """
        deadline = _deadline(timeout_s)
        try:
            answer = self._message(deadline)
            while "got" in answer or ("ready" in answer and not self._got):
                self._note(answer)  # one that died while it was idle costs no call
                answer = self._message(deadline)
            if "payload" in answer:
                return self._payload(deadline)
        except TimeoutError:
            raise
        except (EOFError, OSError, ValueError) as error:
            raise self._died(function) from error
        if "ready" in answer:
            self._note(answer)
            died = WorkerDied(*_death(function))
            died.status = answer["status"]
            raise died
        if "error" in answer:
            failed = WorkerError(f"{function} failed: {answer['error']}.", "Correct its arguments.")
            failed.fields = answer["fields"]
            raise failed
        return answer["value"]

    def is_alive(self) -> bool:
        """Whether it can take another call."""
        return self._process.poll() is None

    def interrupt(self) -> bool:
        """Ends the call under way of a worker that forks. False when the worker can take no other call, and must be killed."""
        if not self._got or self._runs == self.pid:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._runs, signal.SIGKILL)
        ended = self._runs
        try:
            while self._runs == ended:
                self._note(self._message(_deadline(_FORK_S)))
        except (TimeoutError, EOFError, OSError):
            return False
        return True

    def kill(self) -> None:
        """Ends the process and those it started; does nothing when it is gone."""
        self._signal()
        self._process.wait()

    def _signal(self) -> None:
        with suppress(ProcessLookupError):  # it may end just now
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _died(self, function: str) -> WorkerDied:
        self._signal()
        died = WorkerDied(*_death(function))
        died.status = self._process.wait()
        died.over_memory = self._over_memory
        return died

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        while line:
            line = line[os.write(self._process.stdin.fileno(), line) :]

    def _message(self, deadline: float | None) -> dict[str, Any]:
        """The next line that is one. A process that was killed may have left a part of one."""
        while True:
            line = self._line(deadline)
            try:
                found = json.loads(line)
            except ValueError:
                if self._got or not line:
                    continue
                raise
            if isinstance(found, dict):
                return found

    def _note(self, message: dict[str, Any]) -> None:
        self._got = self._got or "got" in message
        if "ready" in message:
            self._runs, self._got = int(message["ready"]), False

    def _line(self, deadline: float | None) -> bytes:
        while b"\n" not in self._unread:
            self._unread += self._read(1 << 16, deadline)
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _payload(self, deadline: float | None) -> bytearray:
        payload = bytearray()
        while size := int.from_bytes(self._exactly(8, deadline), "big"):
            payload += self._exactly(size, deadline)
        return payload

    def _exactly(self, size: int, deadline: float | None) -> bytearray:
        found, self._unread = bytearray(self._unread[:size]), self._unread[size:]
        while len(found) < size:
            found += self._read(min(size - len(found), 1 << 20), deadline)
        return found

    def _read(self, size: int, deadline: float | None) -> bytes:
        assert self._process.stdout is not None
        poller = select.poll()  # select.select fails on descriptors past 1023
        poller.register(self._process.stdout, select.POLLIN)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poller.poll(left):
            raise TimeoutError
        chunk = os.read(self._process.stdout.fileno(), size)
        if not chunk:
            raise EOFError
        return chunk

    def _watch(self, limit: int) -> None:
        """Kills the process once it holds more than `limit` bytes."""
        while self._process.poll() is None:
            if sum(map(resident_bytes, descendants(self._process.pid))) > limit:
                self._over_memory = True
                self._signal()
                return
            time.sleep(_WATCH_EVERY_S)


def _death(function: str) -> tuple[str, str]:
    return f"The process that ran {function} died.", "It may have needed more memory than its limit."


def descendants(pid: int) -> list[int]:
    """A process and those it has started, and they in turn, as far as they run; the process alone off Linux."""
    found, unseen = [pid], [pid]
    while unseen:
        try:
            threads = list(Path(f"/proc/{unseen.pop()}/task").glob("*/children"))
        except OSError:  # it has ended, and glob had begun to look
            continue
        for children in threads:
            try:
                below = [int(child) for child in children.read_text().split()]
            except (OSError, ValueError):  # it has ended
                continue
            found += below
            unseen += below
    return found


def resident_bytes(pid: int) -> int:
    """Memory that a process holds besides the pages of its program files; 0 where that is not known (off Linux, or the process is gone)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


def kill_at_exit(owner: object, workers: set[WorkerProcess]) -> "weakref.finalize":
    """Kills the workers of the set when their owner goes or this process ends."""
    return weakref.finalize(owner, _kill_all, workers)


def _kill_all(workers: set[WorkerProcess]) -> None:
    for worker in list(workers):
        worker.kill()


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds
