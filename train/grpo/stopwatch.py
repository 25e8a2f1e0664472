"""Seconds spent in each phase of a step."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """`with watch("generate"): …` adds to `seconds["generate"]`; phases may come several times, and a phase inside another is taken off it."""

    def __init__(self, begins: Callable[[str], None] | None = None) -> None:
        """`begins` is called with the name of each phase that begins, or goes on after one inside it."""
        self.seconds: dict[str, float] = {}
        self._begins = begins
        self._started = time.perf_counter()
        self._inner_s = 0.0  # of phases that ended inside the one under way
        self._under_way: str | None = None

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Times one phase."""
        if self._begins is not None:
            self._begins(phase)
        before, self._inner_s = self._inner_s, 0.0
        outer, self._under_way = self._under_way, phase
        started = time.perf_counter()
        try:
            yield
        finally:
            lasted = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + lasted - self._inner_s
            self._inner_s = before + lasted
            self._under_way = outer
            if outer is not None and self._begins is not None:
                self._begins(outer)

    def total(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._started
