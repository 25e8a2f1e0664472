"""DuckDB over a house: every table and view, at the latest version or an earlier one."""

import re
import threading
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..store.errors import QueryError
from ..store.house import House
from ..store.tables import TABLES

if TYPE_CHECKING:
    import duckdb

# Each view may use the ones before it.
VIEWS = ("final_rollouts", "latest_scores", "runs", "training_samples", "groups")

_WRITING_CTE = re.compile(r'"type":"(INSERT|UPDATE|DELETE|MERGE)\w*_NODE"')
_EXPLAIN = re.compile(r"\s*explain(\s+analyze)?(\s*\([^)]*\))?\s", re.IGNORECASE)


def sql(
    house: House,
    query: str,
    at: str | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    memory_limit: str = "4GB",
    threads: int | None = None,
    timeout_s: float | None = None,
) -> pa.Table:
    """The answer to one SELECT (or EXPLAIN) over the tables and views, as Arrow.

    The session can read nothing but the house, and change nothing: no file, no network, no setting.

    Args:
        at: A snapshot's name or an ISO time; None is now.
        params: Values of `$name` parameters.
        memory_limit: What DuckDB may use; the buffers of Lance's reader are not counted.
        timeout_s: Gives up after so many seconds; None never.

    Raises QueryError when the query is wrong, writes, or takes too long, VersionNotFound for an unknown `at`.
    """
    con = connect(house, at, memory_limit=memory_limit, threads=threads)
    try:
        con.execute("SET temp_directory = ''")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        return _run(con, query, params, timeout_s)
    finally:
        con.close()


def connect(
    house: House, at: str | None = None, *, memory_limit: str = "4GB", threads: int | None = None
) -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection with the tables and views registered, for our own code: nothing is locked. Close it when done."""
    import duckdb

    settings: dict[str, Any] = {"memory_limit": memory_limit, "python_enable_replacements": False}
    if threads is not None:
        settings["threads"] = threads
    con = duckdb.connect(config=settings)
    con.execute("SET TimeZone = 'UTC'")
    versions = house.versions(at) if at is not None else None
    for table in TABLES.values():
        con.register(table.name, _source(house, table.name, versions))
    for view in VIEWS:
        con.execute(f"CREATE VIEW {view} AS {_read(f'views/{view}.sql')}")
    return con


def _source(house: House, table: str, versions: dict[str, int] | None) -> Any:
    if versions is None:
        return house.dataset(table)
    if table not in versions:
        return TABLES[table].schema.empty_table()
    return house.dataset_version(table, versions[table])


def _run(
    con: "duckdb.DuckDBPyConnection", query: str, params: Mapping[str, Any] | None, timeout_s: float | None
) -> pa.Table:
    import duckdb

    timer = threading.Timer(timeout_s, con.interrupt) if timeout_s else None
    try:
        _refuse_writing(con, query)
        if timer:
            timer.start()
        return con.sql(query, params=dict(params) if params else None).to_arrow_table()
    except duckdb.InterruptException:
        raise QueryError(f"The query took longer than {timeout_s:g} s.", "Narrow it, or allow it more time.") from None
    except (duckdb.OutOfMemoryException, MemoryError):
        raise QueryError("The query needs more memory than it may use.", "Narrow it, or raise the limit.") from None
    except duckdb.Error as error:
        raise QueryError(f"The query failed: {_one_line(str(error))}", _advice(str(error))) from None
    finally:
        if timer:
            timer.cancel()


def _refuse_writing(con: "duckdb.DuckDBPyConnection", query: str) -> None:
    import duckdb

    statements = con.extract_statements(query)
    if len(statements) != 1:
        raise QueryError(f"That is {len(statements)} statements.", "Ask one SELECT at a time.")
    text, kind = statements[0].query, statements[0].type
    if kind == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains.
        inner = con.extract_statements(_EXPLAIN.sub("", text, count=1))
        text, kind = inner[0].query, inner[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(f"That is a {kind.name} statement.", "Only SELECT and EXPLAIN are let through.")
    tree = con.execute("SELECT json_serialize_sql($query)", {"query": text}).fetchall()[0][0]
    if _WRITING_CTE.search(tree):
        raise QueryError("The query writes inside a WITH.", "Only SELECT and EXPLAIN are let through.")


def _advice(message: str) -> str:
    if "does not exist" in message or "not found" in message:
        return f"Tables: {', '.join(TABLES)}; views: {', '.join(VIEWS)}; columns: docs/store.md."
    if "Permission" in message or "disabled by configuration" in message:
        return "A query reads the house and nothing else."
    return "See docs/sql.md."


def _one_line(message: str) -> str:
    return " ".join(message.split("LINE 1:")[0].split()).rstrip(".") + "."


def _read(path: str) -> str:
    return (resources.files("rollhouse.queries") / path).read_text(encoding="utf-8")
