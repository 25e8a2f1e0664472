"""The lenient verdict: ignores order and notation.

Ignored, beyond what the strict verdict ignores:

- the order of calls, where only row order, row labels or ids of new rows show it: original rows are compared in
  order, new rows as a bag, without ids;
- `T` or a space in a time, and seconds or their fraction left out where they are zero (`2023-12-01T10:00` is `2023-12-01 10:00:00`);
- a number or its text (30, 30.0 and "30");
- null, an empty text and an argument left out.

Not ignored: another value, another number of rows, another row changed or removed, another case of a status, list or board.
"""

import re
from collections import Counter
from collections.abc import Hashable
from typing import Any

from .office import Office
from .tables import OfficeTable, Row, is_null
from .verifier import CASE_MATTERS, COMPARED, same_table

SCORER, SCORER_VERSION = "workplace-lenient", "1"

# A plot's path contains the requested times.
_TIMES = {"event_start", "due_date", "last_contact_date", "follow_up_by", "file_path", "sent_datetime"}
_TIME = re.compile(
    r"(?<![\d-])(\d{4}-\d\d-\d\d)[t ](\d\d:\d\d)(?::(\d\d)(?:\.0{1,9})?)?(?![\d:.])", re.ASCII | re.IGNORECASE
)
_IDS = {"email_id", "event_id", "task_id", "customer_id"}


def same_work(left: Office, right: Office) -> bool:
    """Whether two offices agree except for ignored differences. True wherever the strict verdict is."""
    return all(_same(getattr(left, name), getattr(right, name)) for name in COMPARED)


def _same(left: OfficeTable, right: OfficeTable) -> bool:
    if same_table(left, right):
        return True
    if len(left.rows) != len(right.rows) or left.created != right.created:
        return False
    kept = len(left.rows) - left.created
    unchanged = left.rows[:kept] == right.rows[:kept] or all(
        a is b or _cells(left, a) == _cells(right, b) for a, b in zip(left.rows[:kept], right.rows[:kept], strict=True)
    )
    return unchanged and _made(left, kept) == _made(right, kept)


def _made(table: OfficeTable, kept: int) -> Counter[tuple[Hashable, ...]]:
    """The new rows, without their ids."""
    own = [number for number, name in enumerate(table.columns) if name not in _IDS]
    made = (_cells(table, row) for row in table.rows[kept:])
    return Counter(tuple(cells[number] for number in own) for cells in made)


def _cells(table: OfficeTable, row: Row) -> list[Hashable]:
    return [_plain(name, cell) for name, cell in zip(table.columns, row, strict=True)]


def _plain(column: str, cell: Any) -> Hashable:
    """The cell as it is compared: always a text, but null, a truth value, and what no text can stand for."""
    if is_null(cell) or cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        cell = str(cell)
    if not isinstance(cell, str):
        # Lists and objects, and truth values, which are not to equal 1 and 0.
        return type(cell).__name__, repr(cell)
    text = cell if column in CASE_MATTERS else cell.lower()
    return _TIME.sub(lambda time: f"{time[1]} {time[2]}:{time[3] or '00'}", text) if column in _TIMES else text
