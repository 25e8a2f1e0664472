"""The pages agree with the code."""

import re
from pathlib import Path

import pyarrow as pa
from rollhouse.queries.named import list_queries
from rollhouse.queries.session import VIEWS
from rollhouse.store import describe
from rollhouse.store.tables import TABLES

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tables_on_the_page_are_those_of_the_store() -> None:
    page = (DOCS / "store.md").read_text(encoding="utf-8")
    assert describe.renew(page) == page, "run: python -m rollhouse.store.describe docs/store.md"


def test_every_column_has_a_meaning_and_every_key_is_one() -> None:
    for table in TABLES.values():
        names = [column.name for column in table.columns]
        assert len(set(names)) == len(names)
        assert table.key == names[0] and table.schema.field(table.key).type == pa.string()
        assert not table.schema.field(table.key).nullable
        assert all(column.doc and "|" not in column.doc for column in table.columns)


def test_filters_reach_every_column_people_filter_on() -> None:
    # DuckDB cannot push filters into structs, nor compare large strings, in a Lance table.
    for table in TABLES.values():
        for column in table.columns:
            assert not pa.types.is_struct(column.type), f"{table.name}.{column.name}"
            assert not pa.types.is_large_string(column.type), f"{table.name}.{column.name}"


def test_types_in_words() -> None:
    assert describe.type_name(pa.list_(pa.struct([("a", pa.int32()), ("b", pa.list_(pa.string()))]))) == (
        "list of struct(a int32, b list of string)"
    )


def test_the_page_on_sql_names_every_view_and_query_with_its_parameters() -> None:
    page = (DOCS / "sql.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^- `(\w+)`: (?:a |the |rollouts of )", page, re.MULTILINE)) >= set(VIEWS)
    for query in list_queries():
        parameters = ", ".join(f"`{parameter.name}`" for parameter in query.parameters)
        assert f"- `{query.name}`{f' ({parameters})' if parameters else ''}: {query.purpose}\n" in page
