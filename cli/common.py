"""What every command shares: the store option, the output formats, and how errors and progress look."""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..base.errors import RollhouseError
from ..base.json_text import to_json
from ..base.redaction import redacted
from ..base.terminal import csv_text, visible, visible_json

if TYPE_CHECKING:
    import pyarrow as pa
    from pydantic import BaseModel
    from rich.console import Console
    from rich.progress import Progress

    from ..store.lance_store import LanceStore


_MOST_ROWS = 200
"""Of an answer that is printed as a table."""


class State:
    """Options given before the command."""

    debug = False


class Format(StrEnum):
    """How a command prints data."""

    table = "table"
    json = "json"
    csv = "csv"


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="STORE",
        help="Folder or URI of the store [default: $ROLLHOUSE_STORE or ./rollouts]",
        rich_help_panel="Output",
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option("--format", metavar="FORMAT", help="Print data as table, json or csv.", rich_help_panel="Output"),
]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer", metavar="NAME[@VERSION]", help="Scorer whose verdicts count [default: that of collection time]."
    ),
]
AtOption = Annotated[
    str | None, typer.Option("--at", metavar="WHEN", help="Read the store as of a snapshot or an ISO time.")
]


def open_store(location: str | None, at: str | None = None) -> "LanceStore":
    """The store a reading command works on, as it is or as it was; it must exist."""
    from ..store.lance_store import LanceStore, store_location

    return LanceStore.open(store_location(location), at)


def make_store(location: str | None) -> "LanceStore":
    """The store a writing command works on; made when it is not there."""
    from ..store.lance_store import LanceStore, store_location

    return LanceStore.create(store_location(location))


def console(stderr: bool = False) -> "Console":
    """Where text for people goes; control characters in it are shown, not sent."""
    from rich.console import Console
    from rich.segment import Segment

    class Shown(Console):
        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            return super()._render_buffer(
                part if part.control else part._replace(text=visible(part.text)) for part in buffer
            )

    return Shown(stderr=stderr, soft_wrap=False, highlight=False)


def say(text: str, *, stderr: bool = False) -> None:
    """Prints a line of text; control characters in it are shown, not sent."""
    print(visible(text), file=sys.stderr if stderr else sys.stdout, flush=True)


def progress(transient: bool = False) -> "Progress":
    """A progress bar on stderr, so that stdout stays data: `with progress() as bar: task = bar.add_task("collect", total=n)`.

    Without a terminal it is a line every 30 s, and the last state at the end.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    out = console(stderr=True)
    if out.is_terminal:
        return Progress(*columns, console=out, transient=transient)
    from .log_progress import LogProgress

    return LogProgress(*columns, console=out, transient=transient)


def print_next(command: str, location: str | None) -> None:
    """Prints the command that people run next, with the store's option where this one was given it."""
    at = "" if location is None else f" --store {shlex.quote(location)}"
    say(f"next: rollhouse {command}{at}")


def print_error(error: RollhouseError) -> None:
    """One sentence on what is wrong, one on what to do, on stderr."""
    out = console(stderr=True)
    out.print(f"error: {redacted(error.message)}", style="red", markup=False, soft_wrap=True)
    if error.fix:
        out.print(redacted(error.fix), markup=False, soft_wrap=True)


def print_answer(rows: "pa.Table", format: Format) -> None:
    """Prints the answer to a query; a table shows the first rows and how many there are, JSON and CSV hold all."""
    shown = rows.slice(0, _MOST_ROWS) if format is Format.table else rows
    print_rows(shown, format)
    if shown.num_rows < rows.num_rows:
        say(f"the first {shown.num_rows} of {rows.num_rows} rows: --format csv or json prints all", stderr=True)


def print_rows(rows: "pa.Table | Iterable[Mapping[str, Any]]", format: Format, title: str | None = None) -> None:
    """Prints rows as a table (see `tables.print_table`), a JSON array of objects, or CSV."""
    listed: Sequence[Mapping[str, Any]] = _listed(rows)
    names = list(rows.column_names) if hasattr(rows, "column_names") else list(listed[0]) if listed else []  # type: ignore
    if format is Format.json:
        print(visible_json(to_json(listed, default=str)))
    elif format is Format.csv:
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")  # $(…) and `read` would keep a carriage return
        writer.writerow([csv_text(name) for name in names])
        writer.writerows([[_csv_cell(row[name]) for name in names] for row in listed])
    else:
        from .tables import print_table

        print_table(console(), listed, names, title, _shortened, _cell)


def _listed(rows: Any) -> list[Mapping[str, Any]]:
    """The rows as Python values; a column with a value that Python has not (a date of the year 290000) as text."""
    if not hasattr(rows, "to_pylist"):
        return list(rows)
    try:
        return rows.to_pylist()
    except (ValueError, ArithmeticError):
        columns = {name: _values(rows[name]) for name in rows.column_names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, ArithmeticError):
        return column.cast(_with_text(column.type)).to_pylist()


def _with_text(type: Any) -> Any:
    """The Arrow type with text for dates and times, in lists and structs too."""
    import pyarrow as pa

    if pa.types.is_temporal(type):
        return pa.string()
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(_with_text(type.value_type))
    if pa.types.is_struct(type):
        return pa.struct([(field.name, _with_text(field.type)) for field in type])
    return type


def print_config(config: "BaseModel", facts: Mapping[str, Any], format: Format) -> None:
    """Prints a dry run: the configuration as YAML and what is known beside it; one object in JSON and CSV."""
    from ..base.recipes import to_yaml

    if format is not Format.table:
        print_rows([{**facts, "config": config.model_dump(mode="json")}], format)
        return
    say(to_yaml(config).rstrip("\n"))
    if facts:
        print_summary(facts, format, "plan")


def print_summary(summary: Mapping[str, Any], format: Format, title: str | None = None) -> None:
    """Prints what a command did: a table of two columns, or one object (a row) in JSON and CSV."""
    if format is not Format.table:
        print_rows([summary], format)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")  # however long it is, the names beside it stay whole
    for name, value in summary.items():
        table.add_row(name, Text(_shortened(value)))
    console().print(table)


def _shortened(value: Any) -> str:
    """Times without fractions, so that a table keeps room for the rest; JSON and CSV hold them whole."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, dict)):
        return visible_json(to_json(value, default=str))
    return visible(str(value))


def _csv_cell(value: Any) -> str:
    return csv_text(value) if isinstance(value, str) else _cell(value)
