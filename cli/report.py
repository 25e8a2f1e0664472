"""`rollhouse report`: one HTML file about any runs."""

from pathlib import Path
from typing import Annotated

import typer

from .common import AtOption, ScorerOption, StoreOption, open_store, say


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("report")(report)


def report(
    runs: Annotated[list[str], typer.Argument(help="Runs to report on: evaluations, trainings, collections; ids, beginnings of ids, or latest.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Heading [default: the runs' names].")] = None,
    lineage: Annotated[str | None, typer.Option("--lineage", help="Checkpoint, run, dataset or snapshot whose tree is shown [default: the last run].")] = None,
    samples: Annotated[int, typer.Option("--samples", help="Rollouts shown in full, at most.")] = 6,
    scorer: ScorerOption = None,
    store: StoreOption = None,
    at: AtOption = None,
) -> None:  # fmt: skip
    """Write a report on runs: curves, pass rates, lineage, sample rollouts. The file opens without a network.

    Example: `rollhouse report grpo-demo eval-base eval-grpo --out report.html`.
    """
    from ..eval.report import stages_of_runs, write_report
    from ..store.naming import run_named
    from ..train.checkpoints import whole_name

    place = open_store(store, at)
    runs = [run_named(place, run) for run in runs]
    path = write_report(
        place,
        out,
        title=title or ", ".join(runs),
        stages=stages_of_runs(place, runs, scorer),
        runs=runs,
        lineage_of=whole_name(place, lineage) if lineage else runs[-1],
        samples=samples,
        scorer=scorer,
    )
    say(f"wrote {path}")
