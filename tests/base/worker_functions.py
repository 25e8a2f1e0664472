"""Functions that the tests call in worker processes."""

import os
import time

CALLS = 0


def add(a: int, b: int) -> int:
    return a + b


def count() -> tuple[int, int]:
    """How many calls this process has had, and its id."""
    global CALLS
    CALLS += 1
    return CALLS, os.getpid()


def refuse(message: str) -> None:
    raise ValueError(message)


def die() -> None:
    os._exit(7)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def stuck_in_native_code() -> int:
    """Never lets another thread of its process run."""
    return len(str(7**7**9))


def eat(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def environment() -> dict[str, str]:
    return dict(os.environ)


def talk(size: int) -> str:
    print("noise on stdout")
    return "x" * size
