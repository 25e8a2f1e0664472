"""The verdict: replay the calls and the ground truth on fresh tables, then compare what they left behind."""

import json
from collections.abc import Iterable
from typing import Any

from .office import Office
from .tables import OfficeTable, Row, is_null
from .toolbox import TOOLS

COMPARED = ("events", "emails", "plots", "tasks", "customers")
"""The tables of an office that a verdict looks at."""

CASE_MATTERS = ("status", "list_name", "board")
"""Columns whose texts are compared as they are."""


def replay(office: Office, calls: Iterable[tuple[str, Any]]) -> Office:
    """The office after (name, arguments as JSON text) calls, on a copy; calls that fail are skipped.

    Tools that only read are skipped too: they change nothing that is compared. Unlike in a session, null arguments stay.
    """
    office = office.copy()
    for name, text in calls:
        tool = TOOLS.get(name)
        if tool is None or not tool.writes:
            continue
        try:
            arguments = json.loads(text)
            if isinstance(arguments, dict):
                tool.call(office, arguments)
        except Exception:
            continue
    return office


def truth_calls(ground_truth: Any) -> list[tuple[str, Any]]:
    """The calls of a task's ground truth; entries that are not calls are skipped, as upstream does."""
    entries = ground_truth if isinstance(ground_truth, list) else []
    return [(entry["name"], entry["arguments"]) for entry in entries if _is_call(entry)]


def same_state(left: Office, right: Office) -> bool:
    """Whether two offices agree in what the verdict looks at."""
    return all(same_table(getattr(left, name), getattr(right, name)) for name in COMPARED)


def same_table(left: OfficeTable, right: OfficeTable) -> bool:
    """Same rows in the same order under the same labels. Case is ignored except where it matters; there, type counts too."""
    if left is right:
        return True
    if left.labels is not right.labels and left.labels != right.labels:
        return False
    # Rows that are one object, nearly all of them, are equal without comparing cells.
    if left.rows == right.rows:
        return True
    matters = [name in CASE_MATTERS for name in left.columns]
    return all(
        a is b or _comparable(a, matters) == _comparable(b, matters)
        for a, b in zip(left.rows, right.rows, strict=True)
    )  # fmt: skip


def _comparable(row: Row, matters: list[bool]) -> list[Any]:
    # Lower-casing turns every cell that is not a string into null: two durations given as numbers are equal whatever they are.
    return [
        (None if is_null(cell) else cell) if keep else (cell.lower() if isinstance(cell, str) else None)
        for cell, keep in zip(row, matters, strict=True)
    ]


def _is_call(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and "arguments" in entry
