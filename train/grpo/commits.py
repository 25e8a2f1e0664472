"""Commits on a thread of their own, in the order in which they were begun, while learner and engine are at work."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType


class Commits:
    """The thread. The first commit that fails is the last: those begun after it are left out, and `wait` raises its error.

    Leaving the `with` block waits for all that was begun; it raises that error unless another is on its way.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "rollhouse-commits")
        self._failure: BaseException | None = None
        self._seconds = self._told = 0.0

    def begin(self, commit: Callable[[], object]) -> None:
        """Calls `commit` on the thread, after those begun before. From any thread."""
        self._thread.submit(self._commit, commit)

    def wait(self) -> None:
        """Returns when all that was begun before is in the store. Raises what the first that failed has raised."""
        self._thread.submit(lambda: None).result()
        if self._failure is not None:
            raise self._failure

    def take_seconds(self) -> float:
        """How long commits took, since the last call."""
        before, self._told = self._told, self._seconds
        return self._told - before

    def __enter__(self) -> "Commits":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None and self._failure is not None:
            raise self._failure

    def _commit(self, commit: Callable[[], object]) -> None:
        if self._failure is not None:
            return
        started = time.perf_counter()
        try:
            commit()
        except BaseException as failure:
            self._failure = failure
        finally:
            self._seconds += time.perf_counter() - started
