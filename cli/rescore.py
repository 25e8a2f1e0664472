"""`rollhouse rescore`: verdicts on stored rollouts."""

from dataclasses import asdict
from typing import Annotated

import typer

from .common import Format, FormatOption, StoreOption, open_store, print_rows, print_summary, progress


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("rescore")(rescore)


def rescore(
    scorer: Annotated[str, typer.Option("--scorer", metavar="NAME", help="Scorer: an environment (workplace, workplace-mini, …), workplace-lenient, FILE.py:NAME or module:NAME.")],
    tables: Annotated[str | None, typer.Option(metavar="FOLDER", help="Folder of the environment's tables.")] = None,
    of_run: Annotated[str | None, typer.Option(metavar="RUN", help="Score only the rollouts of this run.")] = None,
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the rescoring run.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Worker processes [default: up to one per core].")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Print how verdicts changed instead of counts.")] = False,
    against: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="Scorer that --compare compares with.")] = "collected",
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Score stored rollouts again. Verdicts are added to `scores`; stored rows do not change. The same command resumes an interrupted rescoring.

    Example: `rollhouse rescore --scorer workplace --tables tables/ --compare`.
    """
    from ..collect.rescore import rescore, verdict_moves
    from ..environments.scorers import open_scorer

    place = open_store(store)
    judge = open_scorer(scorer, tables)
    with progress(transient=True) as bar:
        line = bar.add_task("rescore", total=None, note="")
        summary = rescore(
            place,
            judge,
            of_run=of_run,
            name=run,
            workers=workers,
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    if compare:
        print_rows(verdict_moves(place, judge, summary, against, of_run), format, f"{against} → {summary.scorer}")
    else:
        print_summary(asdict(summary), format, "rescored")
