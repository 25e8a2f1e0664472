"""Records that belong together, such as the spans of one trace, brought together in bounded memory."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime

from .lines import Line
from .rollout import Row


def grouped(records: Iterable[tuple[Line, Row]], key: Callable[[Row], str | None]) -> Iterator[tuple[Line, list[Row]]]:
    """The records of each key, with the line of the first, in the order in which the keys appear.

    The records wait in a temporary database on disk; memory holds the keys.

    Args:
        key: None for a record that stands alone.
    """
    groups: dict[str, int] = {}
    lines: list[Line] = []
    # A database without a name is a temporary file, which SQLite deletes.
    with sqlite3.connect("") as base:
        base.execute("CREATE TABLE records (grouped INTEGER, record TEXT, line TEXT)")
        for line, record in records:
            named = key(record)
            number = len(lines) if named is None else groups.setdefault(named, len(lines))
            first = number == len(lines)
            if first:
                lines.append(replace(line, text=""))
            base.execute("INSERT INTO records VALUES (?, ?, ?)", (number, json.dumps(record, default=_plain), line.text if first else None))  # fmt: skip
        base.execute("CREATE INDEX by_group ON records (grouped)")
        for number, line in enumerate(lines):
            found = base.execute(
                "SELECT record, line FROM records WHERE grouped = ? ORDER BY rowid", (number,)
            ).fetchall()
            yield replace(line, text=found[0][1]), [json.loads(text) for text, _ in found]


def _plain(value: object) -> object:
    """What Parquet has and JSON has not."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value)
