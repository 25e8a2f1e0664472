"""`rollhouse snapshot`: names for versions of the whole store."""

from typing import Annotated

import typer

from .command import Application
from .common import Format, FormatOption, StoreOption, open_store, print_next, print_rows, say

NameArgument = Annotated[str, typer.Argument(help="Name of the snapshot.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = Application(no_args_is_help=True, help="Name the present state of the store, and compare such states.")
    for command in (create, list_, show, diff, delete):
        noun.command(command.__name__.strip("_"))(command)
    app.add_typer(noun, name="snapshot")


def create(
    name: NameArgument,
    note: Annotated[str, typer.Option("--note", help="Why it is taken.")] = "",
    store: StoreOption = None,
) -> None:
    """Name the present state; reading commands take the name as --at."""
    from ..store.snapshots import create_snapshot

    made = create_snapshot(open_store(store), name, note)
    say(f"snapshot {name}: {made['tables']['rollouts']['rows']} rollouts")
    print_next(f'sql "select count(*) from rollouts" --at {name}', store)


def list_(store: StoreOption = None, format: FormatOption = Format.table) -> None:
    """List the snapshots, oldest first."""
    from ..store.snapshots import list_snapshots

    print_rows(list_snapshots(open_store(store)), format)


def show(name: NameArgument, store: StoreOption = None, format: FormatOption = Format.table) -> None:
    """Show a snapshot's tables and what refers to it."""
    from ..store.snapshots import show_snapshot

    snapshot = show_snapshot(open_store(store), name)
    if format is Format.json:
        print_rows([snapshot], format)
        return
    rows = [{"table": table, **entry} for table, entry in snapshot["tables"].items()]
    print_rows(rows, format, title=f"{name}, {snapshot['created_at']:%Y-%m-%d %H:%M:%S} UTC {snapshot['note']}".strip())
    if format is Format.table and snapshot["used_by"]:
        say("used by " + ", ".join(snapshot["used_by"]))


def diff(
    a: Annotated[str, typer.Argument(help="Name of a snapshot, or an ISO time.")],
    b: Annotated[str, typer.Argument(help="A later one.")],
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Show what B has that A has not: rows by table, rollouts by run, environment and status, and the mean reward."""
    from ..store.snapshots import diff_snapshots

    found = diff_snapshots(open_store(store), a, b)
    if format is Format.json:
        print_rows([found], format)
        return
    print_rows([{"table": table, **counts} for table, counts in found["tables"].items()], format)
    print_rows(found["rollouts"], format, title="rollouts added")
    if format is Format.table:
        before, after, added = (_mean(found["mean_reward"][side]) for side in ("a", "b", "added"))
        say(f"mean reward {before} -> {after}; of those added {added}")


def delete(name: NameArgument, store: StoreOption = None) -> None:
    """Take a snapshot's name away; refused while a dataset or a run refers to it."""
    from ..store.snapshots import delete_snapshot

    delete_snapshot(open_store(store), name)
    say(f"snapshot {name} deleted; `rollhouse gc` frees what only it kept")


def _mean(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
