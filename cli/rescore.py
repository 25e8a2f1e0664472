"""`rollhouse rescore`: verdicts on stored rollouts."""

from dataclasses import asdict
from typing import Annotated

import typer

from .common import Format, FormatOption, StoreOption, open_store, print_rows, print_summary, progress


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("rescore")(rescore)


def rescore(
    scorer: Annotated[str, typer.Option("--scorer", help="Environment whose verifier scores (workplace, workplace-mini, …), workplace-lenient, or module:function.")],
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    of_run: Annotated[str | None, typer.Option(help="Only the rollouts of this run.")] = None,
    run: Annotated[str | None, typer.Option(help="The rescoring run's name.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that score [default: one a core where there is enough to do].")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show how verdicts moved instead of the counts.")] = False,
    against: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="The scorer that --compare compares with.")] = "collected",
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Score stored rollouts again; the verdicts go to `scores`, and what was stored stays as it is. Run again, it goes on where it was.

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
