"""Shows a training while it runs: a live panel in a terminal, else one line per step."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .common import console
from .live import REFRESH_PER_S, eta

if TYPE_CHECKING:
    from rich.console import RenderableType

OnStep = Callable[[int, int, str], None]
"""Called with steps done, total steps, and a line of text."""

_BARS = "▁▂▃▄▅▆▇█"
_CURVE = 40
"""Number of values that a curve shows."""
_PACE = 11
"""Number of ends of steps that the pace is computed from."""


class TrainingPanel:
    """The panel in the terminal, drawn a few times per second.

    Attributes:
        clock: Returns the time in seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.note, self.clock = name, "starting", clock
        self.done = self.total = 0
        self._numbers: dict[str, float] = {}
        self._curves: defaultdict[str, deque[tuple[int, float]]] = defaultdict(lambda: deque(maxlen=_CURVE))
        self._phase: tuple[int, str, float] | None = None
        self._step_ends: deque[float] = deque(maxlen=_PACE)

    def progress(self, done: int, total: int, note: str) -> None:
        """Sets the number of finished steps, the total, and a note."""
        self.done, self.total, self.note = done, total, note

    def phase(self, step: int, what: str) -> None:
        """Sets the current phase of a step."""
        self._phase = (step, what, self.clock())

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sets the metrics of a finished step."""
        self._numbers, self._phase = dict(numbers), None
        self._step_ends.append(self.clock())
        for name in ("train/reward", "val/accuracy", "train/loss"):
            if name in numbers:
                self._curves[name].append((step, numbers[name]))

    def __rich__(self) -> "RenderableType":
        return self.draw()

    def draw(self) -> "RenderableType":
        """The panel in its present state."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self._numbers and self._phase is None:
            return Text(f"{self.name}: {self.note}", overflow="ellipsis", no_wrap=True)
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(max(1, self.total), self.done, width=30)
        head.add_row(self.name, bar, f"{self.done}/{self.total}", f"ETA {eta(self.total - self.done, self._pace())}")
        return Group(head, *(Text(line, overflow="ellipsis", no_wrap=True) for line in self.lines()))

    def lines(self) -> list[str]:
        """The lines below the bar."""
        shown = []
        if self._phase is not None:
            step, what, began = self._phase
            shown.append(f"step {step}: {what}, {self.clock() - began:.0f} s")
        labels = {"train/reward": "reward", "val/accuracy": "validation", "train/loss": "loss"}
        for name, label in labels.items():
            if curve := self._curves.get(name):
                at, value = curve[-1]
                when = f" at step {at}" if name == "val/accuracy" else ""
                shown.append(f"{label:<10} {sparkline([value for _, value in curve])} {value:.3f}{when}")
        return [*shown, *_counts(self._numbers), *_times(self._numbers)]

    def _pace(self) -> float:
        """Steps per second over the last steps; 0 before the second step."""
        ends = self._step_ends
        return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 and ends[-1] > ends[0] else 0.0


def sparkline(values: Sequence[float]) -> str:
    """The values as a row of bars, scaled to the lowest and the highest. A value that is not finite is a gap."""
    finite = [value for value in values if math.isfinite(value)]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    heights = [(value - low) / span if span else 0.5 for value in finite]
    bars = iter(_BARS[round(height * (len(_BARS) - 1))] for height in heights)
    return "".join(next(bars) if math.isfinite(value) else " " for value in values)


def _counts(numbers: Mapping[str, float]) -> list[str]:
    """Lines of speed, staleness, groups, lengths and the last checkpoint, as far as the metrics have them."""
    speed = []
    if "tokens_per_s" in numbers:
        speed.append(f"{numbers['tokens_per_s']:,.0f} tokens/s")
    if "staleness/mean" in numbers:
        speed.append(f"staleness {numbers['staleness/mean']:.2g}, at most {numbers['staleness/max']:.0f}")
    if "groups/kept" in numbers:
        speed.append(f"groups kept {numbers['groups/kept']:.0f} of {numbers['groups/total']:.0f}")
    lengths = []
    if "len/mean" in numbers:
        lengths.append(f"length {numbers['len/mean']:.0f}, truncated {numbers['truncation_rate']:.0%}")
    if "train/grad_norm" in numbers:
        lengths.append(f"gradient {numbers['train/grad_norm']:.3g}")
    if "mismatch/logp_abs_diff" in numbers:
        lengths.append(f"mismatch {numbers['mismatch/logp_abs_diff']:.2g}")
    if "checkpoint/step" in numbers:
        lengths.append(f"last checkpoint: step {numbers['checkpoint/step']:.0f}")
    dead = [f"{who} restarted {n:.0f}×" for who in ("engine", "learner") if (n := numbers.get(f"{who}/restarts"))]
    return [" · ".join(part) for part in (speed, lengths, dead) if part]


def _times(numbers: Mapping[str, float]) -> list[str]:
    """A line with the seconds of the last step and of its longest phases."""
    phases = {name.removeprefix("time/"): value for name, value in numbers.items() if name.startswith("time/")}
    whole = phases.pop("step", None)
    if whole is None:
        return []
    phases.pop("overlap", None)  # a share, not seconds
    longest = sorted(phases.items(), key=lambda phase: -phase[1])[:5]
    shown = ", ".join(f"{name} {seconds:.2f}" for name, seconds in longest)
    return [f"last step {whole:.1f} s: {shown}"]


@contextmanager
def watch_training(name: str) -> Iterator[tuple[OnStep, TrainingPanel | None]]:
    """Shows a training on stderr. Yields the function to call after every step and, in a terminal, the panel as viewer (else None)."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda done, total, note: out.print(f"{name} {done}/{total}  {note}", markup=False, soft_wrap=True), None
        return
    from rich.live import Live

    panel = TrainingPanel(name)
    with Live(panel, console=out, refresh_per_second=REFRESH_PER_S):
        yield panel.progress, panel
