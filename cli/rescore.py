"""`rollhouse rescore`: verdicts on stored rollouts."""

from dataclasses import asdict
from typing import Annotated

import typer

from .common import Format, FormatOption, HouseOption, open_house, print_summary, progress


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("rescore")(rescore)


def rescore(
    scorer: Annotated[str, typer.Option("--scorer", help="Environment whose verifier scores: workplace, workplace-mini.")],
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    of_run: Annotated[str | None, typer.Option(help="Only the rollouts of this run.")] = None,
    run: Annotated[str | None, typer.Option(help="The rescoring run's name.")] = None,
    house: HouseOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Score stored rollouts again; the verdicts go to `scores`, and what was stored stays as it is.

    Example: `rollhouse rescore --scorer workplace --tables tables/`.
    """
    from ..collect.environments.registry import load_environment
    from ..collect.rescore import rescore

    place = open_house(house)
    environment = load_environment(scorer, tables=tables)
    with progress(transient=True) as bar:
        line = bar.add_task("rescore", total=None, note="")
        summary = rescore(
            place,
            environment,
            of_run=of_run,
            name=run,
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    print_summary(asdict(summary), format, "rescored")
