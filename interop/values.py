"""Values inside records: at a dotted path, or in JSON text."""

import json
from typing import Any

ABSENT = object()


def value_at(row: Any, name: str) -> Any:
    """The value under a key, or at a dotted path; a marker that equals nothing else when there is none."""
    if isinstance(row, dict) and name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    return value_at(row[head], rest) if dot and isinstance(row, dict) and head in row else ABSENT


def present(row: Any, name: str) -> Any:
    """The value at a dotted path, None when there is none. JSON text on the way is read."""
    for part in [name] if isinstance(row, dict) and name in row else name.split("."):
        if isinstance(row, str):
            row = read_json(row)
        row = row.get(part) if isinstance(row, dict) else None
    return row


def read_json(text: str) -> Any:
    """JSON text as a value; None for other text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
