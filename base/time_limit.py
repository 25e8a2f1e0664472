"""A time limit on Python code that is not ours and runs in this process: a chat template, for one."""

import ctypes
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_S = 0.25


class TimeLimitExceeded(Exception):
    """Code ran longer than it may."""


class _Watchdog:
    """One thread that raises TimeLimitExceeded in threads whose time is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._ends: dict[int, tuple[float, int]] = {}  # number → when, in which thread
        self._raised: set[int] = set()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> int:
        number = next(self._numbers)
        with self._lock:
            self._ends[number] = (time.monotonic() + seconds, threading.get_ident())
            if self._thread is None or not self._thread.is_alive():  # also after a fork
                self._thread = threading.Thread(target=self._watch, name="rollhouse-time-limit", daemon=True)
                self._thread.start()
        self._wake.set()
        return number

    def end(self, number: int) -> None:
        with self._lock:
            self._ends.pop(number, None)
            if number in self._raised:  # raised and perhaps not delivered yet: it must not arrive later
                self._raised.discard(number)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                now = time.monotonic()
                for number, (end, thread) in list(self._ends.items()):
                    if now > end:
                        del self._ends[number]
                        self._raised.add(number)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeLimitExceeded))  # fmt: skip
                idle = not self._ends
                if idle:
                    self._wake.clear()
            if idle:
                self._wake.wait()


_watchdog = _Watchdog()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeLimitExceeded in the block once it has run so long, at the next line of Python; what runs in C is not interrupted."""
    number = _watchdog.begin(seconds)
    try:
        yield
    finally:
        _watchdog.end(number)
