"""One program in a process tree of its own: started, watched until it ends or its time is over, and then killed with all that it started.

The launcher forks a supervisor for each rollout, and the supervisor forks the program. Whatever the program starts, in whatever session or process group,
becomes a child of the supervisor once its own parent has ended (a child subreaper), so that nothing is left. A supervisor whose launcher dies does the same
and ends, and the launcher ends with the run: a killed run leaves no program behind.

The file imports the standard library alone. Off Linux there is no subreaper, and what leaves the program's process group survives.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

KEPT_BYTES = 32 << 10
"""Of stdout and of stderr: the first half and the last half are kept."""
VALUE_BYTES = 1 << 20
"""Longest value that a function returns, as JSON."""
_KILL_S = 10.0
_DRAIN_S = 2.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

Program = Callable[[int], int]
"""What runs in the program's process: gets a descriptor for its value, returns the exit code; one that executes another program does not return."""


class Ends:
    """The first and last bytes of a stream, in bounded memory."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._half = most // 2
        self._head, self._tail = bytearray(), bytearray()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Adds bytes at the end."""
        self._size += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    def text(self) -> str:
        """As text; a line says how many bytes were left out."""
        tail = self._tail[-self._half :] if self._half else b""
        left_out = self._size - len(self._head) - len(tail)
        middle = f"\n[{left_out} bytes left out]\n".encode() if left_out else b""
        return bytes(self._head + middle + tail).decode(errors="replace")


def supervise(program: Program, limit_s: float, report: int, cleanup: Sequence[str] = ()) -> NoReturn:
    """Runs a program in this process's child and writes how it ended to the descriptor `report` as JSON; called in a process forked for it.

    The report has `exit` (the exit code, negative for a signal; None for one that was stopped here), `stopped` (`time` for the limit, `order` for SIGTERM,
    None), `value` (JSON text that the program wrote to its descriptor, None), `stdout` and `stderr`.

    Args:
        cleanup: A command to run at the end, for what is outside the process tree (a container).
    """
    stop = _take_over()
    (value_r, value_w), (out_r, out_w), (err_r, err_w) = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        _become(program, value_w, out_w, err_w, [value_r, out_r, err_r, report, *stop])
    for descriptor in (value_w, out_w, err_w):
        os.close(descriptor)
    streams = {value_r: Ends(2 * VALUE_BYTES + 2), out_r: Ends(), err_r: Ends()}
    for descriptor in streams:
        os.set_blocking(descriptor, False)
    status, stopped = _watch(child, streams, stop[0], time.monotonic() + limit_s)
    kill_descendants()
    _drain(streams)
    if cleanup:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(cleanup, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    value = streams[value_r].text()
    found = {
        "exit": status,
        "stopped": stopped,
        "value": value or None,
        "stdout": streams[out_r].text(),
        "stderr": streams[err_r].text(),
    }
    with contextlib.suppress(OSError):  # nobody reads it any more
        _write_all(report, json.dumps(found).encode())
    os._exit(0)


def become_subreaper() -> None:
    """Orphans among this process's descendants become its children, on Linux."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants(spared: Sequence[int] = ()) -> None:
    """Kills all processes below this one, those that they start meanwhile too. `spared` children are left alone, with all below them."""
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        found = _below(os.getpid(), frozenset(spared))
        _reap()
        alive = [pid for pid in found if _is_alive(pid)]
        if not alive:
            break
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _take_over() -> tuple[int, int]:
    """A session of its own, as a subreaper that is told when the launcher dies. Returns a pipe that is readable once it is to stop."""
    parent = os.getppid()
    os.setsid()
    become_subreaper()
    woken_r, woken_w = os.pipe()
    os.set_blocking(woken_w, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(woken_w, warn_on_full_buffer=False)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    return woken_r, woken_w


def _become(program: Program, value: int, out: int, err: int, others: Sequence[int]) -> NoReturn:
    """The program's process."""
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for descriptor in others:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        code = program(value)
    finally:
        os._exit(code)


def _watch(
    child: int, streams: dict[int, Ends], stop: int, deadline: float
) -> tuple[int | None, str | None]:  # fmt: skip
    """Reads what the program writes until it has ended or is to be stopped: (exit code, why it was stopped)."""
    ended = _Ended(child)
    poller = select.poll()
    for descriptor in (*streams, stop, *ended.descriptors):
        poller.register(descriptor, select.POLLIN)
    open_streams = set(streams)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return None, "time"
        for descriptor, _ in poller.poll(1000 * min(left, ended.look_s)):
            if descriptor == stop:
                return None, "order"
            if descriptor in open_streams and not _read(descriptor, streams[descriptor]):
                poller.unregister(descriptor)
                open_streams.discard(descriptor)
        if (status := ended.status()) is not None:
            return status, None


class _Ended:
    """Says when a child has ended: by a descriptor where the kernel gives one, else by looking."""

    def __init__(self, child: int) -> None:
        self._child = child
        try:
            self.descriptors, self.look_s = [os.pidfd_open(child)], 3600.0
        except (AttributeError, OSError):
            self.descriptors, self.look_s = [], 0.02

    def status(self) -> int | None:
        """The exit code; None while it runs."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def _read(descriptor: int, ends: Ends) -> bool:
    """Reads what is there; False at the end of the stream."""
    try:
        data = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return True
    ends.add(data)
    return bool(data)


def _drain(streams: dict[int, Ends]) -> None:
    """What is left in the pipes, all of whose writers were killed."""
    deadline = time.monotonic() + _DRAIN_S
    for descriptor, ends in streams.items():
        while time.monotonic() < deadline and select.select([descriptor], [], [], 0)[0]:
            if not _read(descriptor, ends):
                break


def _below(root: int, spared: frozenset[int]) -> list[int]:
    """All descendants of a process."""
    found, waiting = [], [root]
    while waiting:
        for pid in _children(waiting.pop()):
            if pid not in spared:
                found.append(pid)
                waiting.append(pid)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended, or this is no Linux
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _reap() -> None:
    """Takes the status of children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def report_value(descriptor: int, value: Any) -> None:
    """Writes a program's value to its descriptor. Raises ValueError for one that is too long."""
    data = json.dumps(value).encode()
    if len(data) > VALUE_BYTES:
        raise ValueError(f"the value has {len(data)} bytes, more than {VALUE_BYTES}")
    _write_all(descriptor, data)
