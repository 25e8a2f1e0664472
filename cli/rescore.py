"""`rollhouse rescore`: verdicts on stored rollouts."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .command import DryRunOption, settings_command
from .common import (
    Format,
    FormatOption,
    StoreOption,
    open_store,
    print_config,
    print_rows,
    print_summary,
    progress,
    say,
)

if TYPE_CHECKING:
    from ..collect.config import RescoreConfig


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("rescore", cls=settings_command(_model))(rescore)


def _model() -> "type[RescoreConfig]":
    from ..collect.config import RescoreConfig

    return RescoreConfig


def rescore(
    ctx: typer.Context,
    compare: Annotated[bool, typer.Option("--compare", help="Print how verdicts changed instead of counts.", rich_help_panel="Output")] = False,
    against: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="Scorer that --compare compares with.", rich_help_panel="Output")] = "collected",
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Score stored rollouts again. Verdicts are added to `scores`; stored rows do not change. The same command resumes an interrupted rescoring.

    Example: `rollhouse rescore --scorer workplace --tables tables/ --compare`
    """
    from ..collect.rescore import run_rescore, verdict_moves, why_nothing_moved
    from ..environments.scorers import open_scorer

    config: RescoreConfig = ctx.obj
    if dry_run:
        print_config(
            config, {"environment": open_scorer(config.scorer, config.tables, config.rubric).environment}, format
        )
        return
    place = open_store(store)
    judge = open_scorer(config.scorer, config.tables, config.rubric)
    with progress(transient=True) as bar:
        line = bar.add_task("rescore", total=None, note="")
        summary = run_rescore(place, config, lambda done, total: bar.update(line, completed=done, total=total))
    if compare:
        moves = verdict_moves(place, judge, summary, against, config.of_run)
        print_rows(moves, format, f"{against} → {summary.scorer}")
        if not moves.num_rows:
            say(why_nothing_moved(summary, against), stderr=True)
    else:
        print_summary(asdict(summary), format, "rescored")
