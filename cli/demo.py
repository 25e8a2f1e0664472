"""`rollhouse demo`: the whole loop on this machine, no network, no GPU."""

from pathlib import Path
from typing import Annotated

import typer

from .command import PlainCommand
from .common import console, print_rows


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(cls=PlainCommand)(demo)


def demo(
    seed: Annotated[int, typer.Option(metavar="N", help="Seed for tasks, the script's mistakes, sampling and training.")] = 0,
    store: Annotated[Path | None, typer.Option("--store", metavar="FOLDER", help="Folder of the demo's store. Default: demo-store, or demo-store-2 if it exists, and so on.")] = None,
) -> None:  # fmt: skip
    """Run the whole loop without network and GPU: collect, build datasets, train three ways, evaluate, trace lineage.

    Each step is a command, which is printed before it runs. The store, checkpoints, report.html and summary.json are kept in --store.
    """
    from .common import Format
    from .demo_plan import plan
    from .demo_run import free_folder, run_steps, summarize, summary_rows, write_summary

    store = store or free_folder(Path("demo-store"))
    steps = plan(seed, store)
    seconds = run_steps(store, steps)
    summary = summarize(store, seed, seconds)
    path = write_summary(store, summary)
    print_rows(summary_rows(summary), Format.table, "pass rate on held-out tasks")
    console().print(f"report: {store / 'report.html'}\nsummary: {path}", markup=False)
