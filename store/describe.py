"""Renders the tables for docs/store.md; a test compares them.

`python -m rollhouse.store.describe docs/store.md` updates the page.
"""

import sys
from pathlib import Path

import pyarrow as pa

from .schema import INSERTED, Table
from .tables import COMMON, TABLES

BEGIN = "<!-- tables: rendered by rollhouse.store.describe -->"
END = "<!-- end of tables -->"


def tables_markdown() -> str:
    """Every table with its key and its columns, in Markdown. A column without a type is a string."""
    return "\n\n".join(_table(table) for table in TABLES.values())


def renew(page: str) -> str:
    """The page with the tables between its marks renewed. Raises ValueError when a mark is missing."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables_markdown()}\n\n{END}{after}"


def type_name(type: pa.DataType) -> str:
    """An Arrow type in words: `list of int32`, `struct(name, value double)`; a field without a type is a string."""
    if pa.types.is_list(type):
        return f"list of {type_name(type.value_type)}"
    if pa.types.is_struct(type):
        fields = (type.field(i) for i in range(type.num_fields))
        return f"struct({', '.join(_typed(field.name, field.type) for field in fields)})"
    if pa.types.is_timestamp(type):
        return "timestamp, UTC"
    return str(type)


def _table(table: Table) -> str:
    shown = [column for column in table.columns if column.name != table.key and column not in COMMON]
    lines = [f"- {_typed(f'`{column.name}`', column.type)}: {column.doc}" for column in shown]
    return "\n".join([f"### {table.name}", "", _summary(table), "", *lines])


def _summary(table: Table) -> str:
    """What a row is, its key, the columns that other tables have too, and how it is written again."""
    key = next(column for column in table.columns if column.name == table.key)
    common = ", ".join(f"`{column.name}`" for column in table.columns if column in COMMON)
    parts = [table.doc, f"Key: `{key.name}`, {key.doc}."]
    parts += [f"Also {common}."] if common else []
    parts += [f"Written again: {table.replay}."] if table.replay != INSERTED else []
    return " ".join(parts)


def _typed(name: str, type: pa.DataType) -> str:
    return name if pa.types.is_string(type) else f"{name} {type_name(type)}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
