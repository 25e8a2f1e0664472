"""Tables for people: whole where they fit, records where they do not, and nothing left out without a word."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_TEXT_WIDTH = 16  # the least room of a text, which is folded to it
_RECORDS = 20  # more rows than this are not shown as records
_LIST_SIGNS = 120  # a longer list is cut, with its length

_SHORTEST_ID = 10  # characters of a hash, which no two of ten million rows are likely to share
_HASH = re.compile(r"[0-9a-f]{32,64}")

Cell = Callable[[Any], str]


def print_table(
    out: "Console",
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    title: str | None,
    cell: Cell,
    whole: Cell,
) -> None:
    """Prints rows. Without a terminal the table is as wide as it needs to be, unless COLUMNS is set.

    A table that is too wide has folded texts, else becomes records (up to 20 rows), else names the columns that do not fit.

    Ids that are hashes are cut to beginnings that are unique in the table, which every command takes; JSON, CSV and records have them whole.

    Args:
        cell, whole: Make the text of a value; `cell` may shorten it.
    """
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        out.width = 1_000_000
    columns = [_Column(name, rows, _short_ids(name, rows, cell)) for name in names]
    if sum(column.width + 3 for column in columns) + 1 <= out.width:
        out.width = min(out.width, 10_000)
        out.print(_table(columns, title, compact=False))
        return
    fitting = _fitting(columns, out.width)
    if fitting == len(columns):
        out.print(_table(columns, title, compact=True))
    elif len(rows) <= _RECORDS:
        _print_records(out, rows, names, title, whole)
    else:
        out.print(_table(columns[:fitting], title, compact=True))
        left = ", ".join(column.name for column in columns[fitting:])
        out.print(f"+{len(columns) - fitting} columns: {left} (--format json has all)", markup=False, soft_wrap=True)


class _Column:
    """One column: its cells as texts.

    Attributes:
        width: Characters that it needs.
        least: Characters that it needs when its name is broken at `_` and a long text is folded.
    """

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]], cell: Cell) -> None:
        values = [row[name] for row in rows]
        known = [value for value in values if value is not None]
        self.name = name
        self.numeric = bool(known) and all(isinstance(value, (int, float)) for value in known)
        self.cells = [_cut_list(value, cell(value)) for value in values]
        lines = [line for text in self.cells for line in text.split("\n")]
        content = max(map(_width, lines), default=0)
        self.width = max(content, _width(name))
        self.least = max(
            min(content, content if self.numeric else _TEXT_WIDTH), *(_width(part) for part in _parts(name))
        )


def _short_ids(name: str, rows: Sequence[Mapping[str, Any]], cell: Cell) -> Cell:
    """Makes the text of a column's values, cutting a column of hashes to their shortest unique beginnings; other columns as `cell` does."""
    known = [row[name] for row in rows if row[name] is not None]
    if not known or not all(isinstance(id, str) and _HASH.fullmatch(id) for id in known):
        return cell
    ids = sorted(set(known))
    shared = max((_same(*pair) for pair in pairwise(ids)), default=0)
    length = max(_SHORTEST_ID, shared + 1)
    return lambda value: cell(value[:length] if isinstance(value, str) else value)


def _same(one: str, other: str) -> int:
    """How many characters two texts begin alike with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _cut_list(value: Any, text: str) -> str:
    if not isinstance(value, list | tuple) or len(text) <= _LIST_SIGNS:
        return text
    return f"{text[:_LIST_SIGNS]}… ({len(value)} entries)"


def _parts(name: str) -> list[str]:
    parts = name.split("_")
    return [f"{part}_" for part in parts[:-1]] + parts[-1:]


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _fitting(columns: Sequence[_Column], width: int) -> int:
    """The number of columns that fit side by side, folded."""
    used = 1
    for number, column in enumerate(columns):
        used += column.least + 2
        if used > width:
            return max(number, 1)
    return len(columns)


def _table(columns: Sequence[_Column], title: str | None, compact: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0)} if compact else {}
    table = Table(title=title, header_style="bold", **style)
    for column in columns:
        header = "\n".join(_parts(column.name)) if compact else column.name
        table.add_column(
            header,
            overflow="fold",
            min_width=column.least,
            no_wrap=column.numeric,
            justify="right" if column.numeric else "left",
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _print_records(
    out: "Console", rows: Sequence[Mapping[str, Any]], names: Sequence[str], title: str | None, whole: Cell
) -> None:
    """Each row as lines of a name and a value."""
    if title:
        out.print(title, style="italic", markup=False)
    room = max(map(_width, names))
    for number, row in enumerate(rows, start=1):
        out.print(f"── {number} of {len(rows)}", style="bold", markup=False)
        for name in names:
            out.print(f"{name:<{room}}  {_cut_list(row[name], whole(row[name]))}", markup=False, soft_wrap=True)
