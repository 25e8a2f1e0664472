"""Shared by the store's measurements: the page, clocks and sizes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKENS = ["token_ids", "loss_mask", "logprobs"]


@dataclass
class Bench:
    """The folder of the measurements and their results.

    Attributes:
        scale: Share of the rows.
        lines: The page, as Markdown lines.
        goals: The goal, the measured value, and whether it is met.
    """

    folder: Path
    scale: float
    kills: int
    lines: list[str] = field(default_factory=list)
    goals: list[tuple[str, str, bool]] = field(default_factory=list)

    def rows(self, n: int) -> int:
        """The number of rows of which there are `n` at full scale, a multiple of 8."""
        return max(80, int(n * self.scale) // 8 * 8)

    def table(self, title: str, head: list[str], rows: list[list[Any]]) -> None:
        """Adds a section with a table."""
        self.lines += ["", f"## {title}", "", row_of(head), rule(len(head)), *map(row_of, rows)]

    def section(self, title: str, text: str) -> None:
        """Adds a section of one paragraph."""
        self.lines += ["", f"## {title}", "", text]

    def paragraph(self, text: str) -> None:
        """Adds a paragraph."""
        self.lines += ["", text]

    def goal(self, what: str, value: float, bound: float, least: bool = False, unit: str = "x") -> None:
        """Compares a measured value with its goal."""
        met = value >= bound if least else value <= bound
        self.goals.append((f"{what}: {'at least' if least else 'at most'} {bound:g}{unit}", f"{value:.3g}{unit}", met))


def rule(columns: int) -> str:
    """The line under the head of a Markdown table."""
    return f"|{'---|' * columns}"


def row_of(cells: list[Any]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def batched(items: Iterator[Any], n: int) -> Iterator[list[Any]]:
    """Lists of `n` items, the last one shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == n:
            yield batch
            batch = []
    if batch:
        yield batch


def seconds_of(work: Callable[[], Any]) -> float:
    """Seconds of one run of the work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(work: Callable[[], Any], times: int) -> float:
    """The shortest of several runs, in seconds."""
    return min(seconds_of(work) for _ in range(times))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
