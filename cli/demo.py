"""`rollhouse demo`: the whole loop on this machine, no network, no GPU."""

from pathlib import Path
from typing import Annotated

import typer

from .common import console, print_rows


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def demo(
    seed: Annotated[int, typer.Option(help="Of the tasks, the script's mistakes, sampling and training.")] = 0,
    house: Annotated[Path | None, typer.Option("--house", help="Folder of the demo's house [default: demo-house, or demo-house-2 when that is taken, …].")] = None,
) -> None:  # fmt: skip
    """Run the whole loop: collect, make datasets, train three ways, evaluate, trace the lineage. No network, no GPU.

    Each step is a command that is printed before it runs. The house, checkpoints, report.html and summary.json stay in --house.
    """
    from .common import Format
    from .demo_plan import plan
    from .demo_run import free_folder, run_steps, summarize, summary_rows, write_summary

    house = house or free_folder(Path("demo-house"))
    steps = plan(seed, house)
    seconds = run_steps(house, steps)
    summary = summarize(house, seed, seconds)
    path = write_summary(house, summary)
    print_rows(summary_rows(summary), Format.table, "pass rate on held-out tasks")
    console().print(f"report: {house / 'report.html'}\nsummary: {path}", markup=False)
