"""The tables as a page: docs/store.md holds what this renders, and a test compares them.

`python -m rollhouse.store.describe docs/store.md` renews the page.
"""

import sys
from pathlib import Path

import pyarrow as pa

from .schema import Table
from .tables import TABLES

BEGIN = "<!-- tables: rendered by rollhouse.store.describe -->"
END = "<!-- end of tables -->"


def tables_markdown() -> str:
    """Every table with its key and its columns, in Markdown."""
    return "\n\n".join(_table(table) for table in TABLES.values())


def renew(page: str) -> str:
    """The page with the tables between its marks renewed. Raises ValueError when a mark is missing."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables_markdown()}\n\n{END}{after}"


def type_name(type: pa.DataType) -> str:
    """An Arrow type in a few words: `list of int32`, `struct(name string, value double)`."""
    if pa.types.is_list(type):
        return f"list of {type_name(type.value_type)}"
    if pa.types.is_struct(type):
        fields = (type.field(i) for i in range(type.num_fields))
        return f"struct({', '.join(f'{field.name} {type_name(field.type)}' for field in fields)})"
    if pa.types.is_timestamp(type):
        return "timestamp, UTC"
    return str(type)


def _table(table: Table) -> str:
    lines = [
        f"### {table.name}",
        "",
        f"{table.doc} Key: `{table.key}`. Written again: {table.replay}.",
        "",
        "| column | type | meaning |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{column.name}` | {type_name(column.type)} | {column.doc} |" for column in table.columns]
    return "\n".join(lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
