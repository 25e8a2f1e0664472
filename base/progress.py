"""A progress bar for calls from Python: a notebook's widget, a terminal's line, or nothing where neither is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int | None, str], None]
"""Reports progress: units done so far, units in all (None while unknown), a short note."""


@contextmanager
def progress_bar(description: str, unit: str = "", shown: bool | None = None) -> Iterator[Report]:
    """Shows how far a call has come, and yields the function that reports it.

    Args:
        unit: What is counted, in the singular (`rollout`, `step`).
        shown: None shows a bar in a notebook and in a terminal (stderr), and nothing elsewhere.
    """
    if not (_is_visible() if shown is None else shown):
        yield lambda done, total, note: None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=description, unit=f" {unit}" if unit else "it", leave=False) as bar:

        def report(done: int, total: int | None, note: str) -> None:
            if total is not None:
                bar.total = total
            bar.set_postfix_str(note, refresh=False)
            bar.update(done - bar.n)

        yield report


def in_notebook() -> bool:
    """Whether this code runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _is_visible() -> bool:
    return in_notebook() or sys.stderr.isatty()
