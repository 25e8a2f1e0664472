"""Progress where there is no terminal: a line about what is under way, every EVERY_S seconds, whether it moves or not."""

import sys
import threading
from datetime import timedelta

from rich.progress import Progress, Task

from ..base.terminal import visible

EVERY_S = 30.0


class LogProgress(Progress):
    """Rich's progress, which without a terminal prints nothing before the end, with lines in between."""

    def start(self) -> None:
        """Begins to print."""
        super().start()
        self._over = threading.Event()
        self._printing = threading.Thread(target=self._print_lines, daemon=True)
        self._printing.start()

    def stop(self) -> None:
        """Ends it, and prints the last state as Rich does."""
        self._over.set()
        self._printing.join()
        super().stop()

    def _print_lines(self) -> None:
        while not self._over.wait(EVERY_S):
            for task in self.tasks:
                if not task.finished:
                    print(visible(line_of(task)), file=sys.stderr, flush=True)


def line_of(task: Task) -> str:
    """What is known of a task: how far it is, since when, how long it may still take, and its note."""
    total = "" if task.total is None else f"/{task.total:,.0f}"
    line = f"{task.description} {task.completed:,.0f}{total} after {timedelta(seconds=int(task.elapsed or 0))}"
    if task.time_remaining is not None:
        line += f", about {timedelta(seconds=int(task.time_remaining))} left"
    note = task.fields.get("note")
    return f"{line}, {note}" if note else line
