"""Small HTML tables for notebooks. Everything that comes from data is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

MAX_CELL = 120
"""Characters of a cell that are shown; a longer value is cut with an ellipsis and its length."""


def html_table(
    rows: Sequence[Mapping[str, Any]], *, title: str | None = None, total: int | None = None, note: str | None = None
) -> str:
    """Rows as an HTML table with the columns of the first row.

    Args:
        rows: The rows to show; every row has the keys of the first.
        title: A heading above the table.
        total: The number of rows there are, where `rows` is only their beginning; the difference is stated below the table.
        note: One line below the table.
    """
    names = list(rows[0]) if rows else []
    head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in names)}</tr>" for row in rows)
    below = [] if total is None or total <= len(rows) else [f"{total - len(rows):,} more rows"]
    below += [note] if note else []
    caption = f"<b>{escape(title)}</b>" if title else ""
    foot = f"<div><small>{escape('; '.join(below))}</small></div>" if below else ""
    return f"<div>{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}</div>"


def html_pairs(pairs: Iterable[tuple[str, Any]], *, title: str | None = None) -> str:
    """Names and values as an HTML table of two columns."""
    return html_table([{"": name, "value": value} for name, value in pairs], title=title)


def _cell(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    align = "right" if number else "left"
    return f"<td style='text-align:{align}'>{escape(cell_text(value))}</td>"


def cell_text(value: Any) -> str:
    """A value as the text of one cell: floats with four significant digits, long texts and lists cut with their length."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"[{', '.join(cell_text(item) for item in value[:8])}, … {len(value):,} items]"
    text = str(value)
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}… ({len(text):,} characters)"
