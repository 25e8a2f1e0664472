"""The table engine: immutable tables that share their rows, so that starting a session and changing a cell cost little.

A table remembers pandas' row labels, because the verdict compares them: two tables with equal rows can still differ.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce
from pathlib import Path
from typing import Any

from ...base.errors import FormatError
from .patterns import find_pattern

Row = tuple[Any, ...]

MISSING = float("nan")
"""An empty cell of a file. A tool's own null is None; both count as null."""

# Cells that pandas reads as missing.
_MISSING_TEXTS = frozenset(
    (
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
        "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    )
)  # fmt: skip


def is_null(cell: Any) -> bool:
    """Whether a cell holds nothing: None or not-a-number."""
    return cell is None or (isinstance(cell, float) and cell != cell)


@dataclass(frozen=True)
class OfficeTable:
    """Rows under named columns. Every change returns a new table that shares the unchanged rows.

    Attributes:
        rows: In order; cells are parallel to `columns`.
        labels: Row labels, parallel to rows; 0, 1, 2, … in a table just read.
        created: How many rows, at the end, were added since the table was read.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: tuple[int, ...]
    created: int = 0

    @cached_property
    def position(self) -> dict[str, int]:
        """Where in a row each column's cell is."""
        return {name: number for number, name in enumerate(self.columns)}

    def cells(self, column: str) -> list[Any]:
        """One column, parallel to rows."""
        position = self.position[column]
        return [row[position] for row in self.rows]

    def record(self, row: Row) -> dict[str, Any]:
        """A row as tools show it."""
        return dict(zip(self.columns, row, strict=True))

    def records(self) -> list[dict[str, Any]]:
        """All rows as tools show them."""
        return [self.record(row) for row in self.rows]

    def find(self, column: str, value: Any) -> list[dict[str, Any]]:
        """The records whose cell equals `value`."""
        self._require_length(value)
        return [self.record(self.rows[number]) for number in self._places(column, value)]

    def has(self, column: str, value: Any) -> bool:
        """Whether a cell equals `value`. A list of one stands for what it holds; a longer one raises ValueError, as numpy does."""
        if isinstance(value, list) and len(value) != 1:
            raise ValueError(
                f"operands could not be broadcast together with shapes ({len(self.rows)},) ({len(value)},) "
            )
        sought = value[0] if isinstance(value, list) else value
        return sought in self.cells(column)

    def _places(self, column: str, value: Any) -> list[int]:
        return [number for number, cell in enumerate(self.cells(column)) if cell == value]

    def where(self, kept: Sequence[bool]) -> "OfficeTable":
        """The rows marked true (parallel to rows), labels kept."""
        rows = tuple(row for row, keep in zip(self.rows, kept, strict=True) if keep)
        labels = tuple(n for n, keep in zip(self.labels, kept, strict=True) if keep)
        return replace(self, rows=rows, labels=labels, created=sum(kept[len(kept) - self.created :]))

    def without(self, column: str, value: Any) -> "OfficeTable":
        """All rows but those whose cell equals `value`, labels kept."""
        self._require_length(value)
        rows, labels, created = self.rows, self.labels, self.created
        for number in reversed(self._places(column, value)):
            created -= number >= len(rows) - created
            rows, labels = rows[:number] + rows[number + 1 :], labels[:number] + labels[number + 1 :]
        return replace(self, rows=rows, labels=labels, created=created)

    def with_cell(self, column: str, value: Any, field: str, new: Any) -> "OfficeTable":
        """`field` set to `new` in every row whose `column` equals `value`."""
        self._require_length(value)
        places, target = self._places(column, value), self.position[field]
        new = _assignable(new, len(places))
        rows = list(self.rows)
        for number in places:
            rows[number] = (*rows[number][:target], new, *rows[number][target + 1 :])
        return replace(self, rows=tuple(rows))

    def with_row(self, record: dict[str, Any], relabel: bool) -> "OfficeTable":
        """One more row at the end. `relabel` numbers all rows again; otherwise the new one is labelled 0."""
        rows = (*self.rows, tuple(record[name] for name in self.columns))
        labels = _numbers(len(rows)) if relabel else (*self.labels, 0)
        return replace(self, rows=rows, labels=labels, created=self.created + 1)

    def next_id(self, column: str) -> int:
        """One more than the largest id; largest as text, which is not always the largest number."""
        # Nearly every session needs this of the original tables, which all sessions share.
        if column not in self._next_ids:
            self._next_ids[column] = self._next_id(column)
        return self._next_ids[column]

    @cached_property
    def _next_ids(self) -> dict[str, int]:
        return {}

    def _next_id(self, column: str) -> int:
        cells = [cell for cell in self.cells(column) if not is_null(cell)]
        if all(type(cell) is str for cell in cells):
            largest = max(cells, default=MISSING)
        else:
            # Not max(): ids of different types must fail with numpy's message.
            largest = reduce(lambda a, b: a if a >= b else b, cells)
        return int(largest) + 1

    def _require_length(self, value: Any) -> None:
        require_length(value, len(self.rows))

    def texts(self, column: str) -> list[str | None]:
        """One column lower-cased, parallel to rows; None where the cell is not a string. Raises as `require_text` does."""
        cells = self.cells(column)
        require_text(cells)
        return [cell.lower() if isinstance(cell, str) else None for cell in cells]


@lru_cache(maxsize=64)
def _numbers(count: int) -> tuple[int, ...]:
    # Shared, so that labels of equally long tables are one object and compare at once.
    return tuple(range(count))


def require_length(value: Any, cells: int) -> None:
    """Raises ValueError for a list of the column's length where one value is needed, as pandas does."""
    if isinstance(value, list) and len(value) != cells:
        raise ValueError(f"('Lengths must match to compare', ({cells},), ({len(value)},))")


def _assignable(new: Any, matching: int) -> Any:
    """What an assignment of `new` puts into each of `matching` cells; pandas spreads lists over them."""
    if not isinstance(new, list):
        return new
    if len(new) == 1:
        return new[0]
    raise ValueError("setting an array element with a sequence.")


def require_text(cells: Sequence[Any]) -> None:
    """Raises AttributeError when a column has cells and all of them are numbers, or all are truth values."""
    present = [cell for cell in cells if not is_null(cell)]
    if present and all(isinstance(cell, (int, float)) for cell in present):
        raise AttributeError("Can only use .str accessor with string values!")


def contains(cells: Sequence[Any], pattern: Any, null: bool | None = None) -> list[bool]:
    """Whether each cell matches a regular expression anywhere, case ignored; parallel to cells.

    Args:
        null: What a cell that is not a string counts as; None makes such a cell an error.

    Raises:
        re.error: The pattern is not a regular expression.
        TimeoutError: Matching took longer than patterns.LIMIT_S.
        ValueError: A cell is not a string and `null` is None.
    """
    require_text(cells)
    hits = iter(find_pattern(pattern, [cell for cell in cells if isinstance(cell, str)]))
    found = [next(hits) if isinstance(cell, str) else null for cell in cells]
    if None in found:
        raise ValueError("Cannot mask with non-boolean array containing NA / NaN values")
    return found  # type: ignore[return-value]


def read_table(path: Path, columns: tuple[str, ...]) -> OfficeTable:
    """Reads a CSV file; every cell is text or MISSING.

    Raises FormatError when the file is not there, its columns are not `columns` (in any order) or a row is too long.
    """
    rows = _read_rows(path)
    header = tuple(rows[0]) if rows else ()
    if sorted(header) != sorted(columns):
        raise FormatError(f"{path} has the columns {', '.join(header)}.", f"It needs {', '.join(columns)}.")
    return _table(path, header, rows[1:])


def read_column(path: Path, column: str) -> OfficeTable:
    """Reads a CSV file of one column without a header."""
    return _table(path, (column,), _read_rows(path))


def _table(path: Path, columns: tuple[str, ...], lines: list[list[str]]) -> OfficeTable:
    for number, line in enumerate(lines, start=2):
        if len(line) > len(columns):
            raise FormatError(f"Row {number} of {path} has {len(line)} cells.", f"It may have {len(columns)}.")
    rows = tuple(
        tuple(MISSING if cell in _MISSING_TEXTS else cell for cell in line) + (MISSING,) * (len(columns) - len(line))
        for line in lines
    )
    return OfficeTable(columns, rows, _numbers(len(rows)))


def _read_rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise FormatError(f"There is no {path.name} in {path.parent}.", "Name the folder of the six tables (--tables).")
    with path.open(newline="", encoding="utf-8") as file:
        return [line for line in csv.reader(file) if line]
