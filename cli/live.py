"""How a collection looks while it runs: a live panel in a terminal, a plain progress line elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .common import console, progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..collect.summary import CollectSummary
    from ..store.rollout import Rollout

OnStart = Callable[[int], None]
OnPlan = Callable[["CollectSummary"], None]
OnDone = Callable[["Rollout", "CollectSummary"], None]

_WINDOW_S = 30.0
REFRESH_PER_S = 4
"""How often a live view is drawn."""


class Pace:
    """Rollouts and tokens a second over the last half minute, from a few samples a second."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=int(_WINDOW_S * REFRESH_PER_S))

    def take(self, now: float, rollouts: int, tokens: int) -> tuple[float, float]:
        """Rollouts and tokens a second, 0.0 before the second sample. `now` is in seconds."""
        self._samples.append((now, rollouts, tokens))
        before, rollouts_before, tokens_before = self._samples[0]
        seconds = now - before
        if seconds <= 0:
            return 0.0, 0.0
        return (rollouts - rollouts_before) / seconds, (tokens - tokens_before) / seconds


class Panel:
    """What the terminal shows; drawn anew a few times a second from the summary, which the runner fills."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.note = "starting"
        self.summary: CollectSummary | None = None
        self._pace = Pace()

    def __rich__(self) -> "RenderableType":
        return self.draw(time.monotonic())

    def draw(self, now: float) -> "RenderableType":
        """The panel at a time in seconds."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        so_far = self.summary
        if so_far is None:
            return Text(f"{self.name}: {self.note}")
        rollouts, tokens = self._pace.take(now, so_far.collected, so_far.sampled_tokens)
        there = so_far.skipped + so_far.collected
        head = Table.grid(padding=(0, 1))
        head.add_row(self.name, ProgressBar(max(1, so_far.planned), there, width=30), f"{there}/{so_far.planned}", f"ETA {eta(so_far.planned - there, rollouts)}")  # fmt: skip
        return Group(head, *(Text(line, overflow="ellipsis", no_wrap=True) for line in lines(so_far, rollouts, tokens)))


def lines(so_far: "CollectSummary", rollouts_a_second: float, tokens_a_second: float) -> list[str]:
    """The counts below the bar."""
    counts = [f"done {so_far.collected - so_far.failed}", f"failed {so_far.failed}", f"in flight {so_far.in_flight}"]
    if so_far.skipped:
        counts.append(f"there before {so_far.skipped}")
    pace = [f"{rollouts_a_second:.3g} rollouts/s"]
    if so_far.sampled_tokens:
        pace.append(f"{tokens_a_second:,.0f} tokens/s")
    if so_far.reward_mean is not None:
        pace.append(f"reward {so_far.reward_mean:.3f}")
    shown = [" · ".join(counts), " · ".join(pace)]
    if so_far.slowest_tool is not None:
        name, seconds = so_far.slowest_tool
        shown.append(f"slowest tool {name}, {seconds:.3g} s")
    if so_far.last_error is not None:
        shown.append(f"last failure: {so_far.last_error}")
    return shown


@contextmanager
def watch(name: str, starts_engine: bool) -> Iterator[tuple[OnStart, OnPlan, OnDone]]:
    """Shows a collection on stderr; gives what `run_job` calls."""
    shown = _live if console(stderr=True).is_terminal else _plain
    with shown(name, "starting the engine" if starts_engine else "") as callbacks:
        yield callbacks


@contextmanager
def _live(name: str, starting: str) -> Iterator[tuple[OnStart, OnPlan, OnDone]]:
    from rich.live import Live

    panel = Panel(name)

    def on_start(planned: int) -> None:
        panel.note = f"{planned} rollouts planned, {starting}".rstrip(", ")

    def on_plan(summary: "CollectSummary") -> None:
        panel.summary = summary

    with Live(panel, console=console(stderr=True), refresh_per_second=REFRESH_PER_S):
        yield on_start, on_plan, lambda row, summary: None


@contextmanager
def _plain(name: str, starting: str) -> Iterator[tuple[OnStart, OnPlan, OnDone]]:
    with progress() as bar:
        line = bar.add_task(name, total=None, note="starting")

        def on_start(planned: int) -> None:
            bar.update(line, total=planned, note=starting)

        def on_plan(summary: "CollectSummary") -> None:
            bar.update(line, total=summary.planned, completed=summary.skipped, note="")

        def on_done(rollout: "Rollout", so_far: "CollectSummary") -> None:
            bar.update(line, completed=so_far.skipped + so_far.collected, note=_note(so_far))

        yield on_start, on_plan, on_done


def _note(so_far: "CollectSummary") -> str:
    mean = "" if so_far.reward_mean is None else f"reward {so_far.reward_mean:.3f}"
    return f"{mean}, {so_far.failed} failed".lstrip(", ") if so_far.failed else mean


def eta(left: int, a_second: float) -> str:
    """How long what is left takes at a pace, as h:mm:ss."""
    if left <= 0:
        return "0:00:00"
    if a_second <= 0:
        return "-:--:--"
    minutes, seconds = divmod(int(left / a_second), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
