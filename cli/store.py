"""`rollhouse check`, `compact`, `gc`: keeping a store sound and small."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..base.errors import ConfigError
from .common import Format, FormatOption, StoreOption, open_store, print_rows, progress, say

if TYPE_CHECKING:
    from ..queries.suspicions import Suspicion
    from ..store.lance_store import LanceStore


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (check, compact, gc):
        app.command(command.__name__)(command)


def check(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="First mend what a crash can leave: journals, rows that are there twice, stray tags."
        ),
    ] = False,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Compare every data file with its hash and read every column [default: 256 MB of each table].",
        ),
    ] = False,
    salvage: Annotated[
        bool,
        typer.Option("--salvage", help="First make a new version of each damaged table, of the rows in whole files."),
    ] = False,
    rollouts: Annotated[
        bool,
        typer.Option(
            "--rollouts", help="Report what looks wrong in rollouts (empty turns, unknown tools, …), not in tables."
        ),
    ] = False,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="With --rollouts, only this run.")] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on",
            metavar="FINDINGS",
            help="With --rollouts, findings that make the exit code 1, by commas; or any.",
        ),
    ] = "",
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Verify the store: files as they were written, unique keys, references that resolve, empty journals, snapshots intact. Exit code 1 when something is wrong."""
    if rollouts:
        _check_rollouts(open_store(store), run, [name.strip() for name in fail_on.split(",") if name.strip()], format)
        return
    if run or fail_on:
        raise ConfigError("--run and --fail-on need --rollouts.", "Add --rollouts.")
    from ..store.damage import salvage as save
    from ..store.maintenance import check as find_problems
    from ..store.repair import repair as mend

    opened = open_store(store)
    for saved in save(opened) if salvage else ():
        say(saved, stderr=True)
    for done in mend(opened) if repair else ():
        say(done, stderr=True)
    problems = _with_progress("check", find_problems, opened, deep=deep)
    if format is not Format.table:
        print_rows([{"problem": problem} for problem in problems], format)
    else:
        say("\n".join(problems) if problems else "The store is sound.")
    raise typer.Exit(1 if problems else 0)


def _check_rollouts(store: "LanceStore", run: str | None, fail_on: list[str], format: Format) -> None:
    from ..queries.suspicions import failing, suspicious_rollouts
    from ..store.runs import find_run

    failing([], fail_on)  # a wrong name is an error before the query
    found = suspicious_rollouts(store, run and find_run(store, run)["run_id"])
    print_suspicions(found, format)
    raise typer.Exit(1 if failing(found, fail_on) else 0)


def print_suspicions(found: "Sequence[Suspicion]", format: Format) -> None:
    """One row per finding and run."""
    if found or format is not Format.table:
        print_rows([asdict(one) for one in found], format, "suspicious rollouts")
    else:
        print("No rollout looks suspicious.")


def compact(store: StoreOption = None, format: FormatOption = Format.table) -> None:
    """Join the small pieces that many commits leave, so that reading stays quick. Snapshots keep their rows."""
    from ..store.maintenance import compact as join

    print_rows(_with_progress("compact", join, open_store(store)), format)


def gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this the command only prints what it would free.")
    ] = False,
    keep_hours: Annotated[
        float, typer.Option("--keep-hours", min=0, help="Keep versions younger than this; readers may hold them.")
    ] = 1.0,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Free old versions that no snapshot names."""
    from ..store.maintenance import gc as clean

    report = _with_progress("gc", clean, open_store(store), yes=yes, retention=timedelta(hours=keep_hours))
    print_rows(report, format)
    if format is Format.table:
        total = sum(row["bytes"] for row in report)
        print(f"{'freed' if yes else 'would free'} {total / 1e6:.2f} MB" + ("" if yes else "; give --yes to do it"))


def _with_progress(what: str, function: Any, *args: Any, **options: Any) -> Any:
    from ..store.tables import TABLES

    with progress(transient=True) as bar:
        task = bar.add_task(what, total=len(TABLES), note="")
        return function(*args, on_table=lambda table: bar.update(task, advance=1, note=table), **options)
