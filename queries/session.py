"""DuckDB over a store: every table and view, at the latest version or an earlier one."""

import re
import threading
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..base.errors import QueryError
from ..store.lance_store import LanceStore
from ..store.schema import Table
from ..store.tables import TABLES
from .passk import MACRO
from .token_text import register_texts
from .verdicts import is_chosen, refuse_unknown_scorer, rollouts_sql

if TYPE_CHECKING:
    import duckdb

# Each view may use the ones before it.
VIEWS = (
    "final_rollouts",
    "latest_scores",
    "runs",
    "training_samples",
    "prompt_ledger",
    "groups",
    "turns",
    "tokens",
    "current_labels",
)

_WRITING_CTE = re.compile(r'"type":"(INSERT|UPDATE|DELETE|MERGE)\w*_NODE"')
_EXPLAIN = re.compile(r"\s*explain(\s+analyze)?(\s*\([^)]*\))?\s", re.IGNORECASE)
# A PIVOT whose columns come from the data is several statements to DuckDB without a syntax tree: these words identify it.
_READING_STARTS = {"pivot", "pivot_wider", "from", "with", "select"}
_WRITING_WORDS = {"insert", "update", "delete", "merge", "create", "copy", "attach", "install", "load", "set", "call"}


def sql(
    store: LanceStore,
    query: str,
    at: str | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    scorer: str | None = None,
    memory_limit: str = "4GB",
    threads: int | None = None,
    timeout_s: float | None = None,
) -> pa.Table:
    """The answer to one SELECT (or EXPLAIN) over the tables and views, as Arrow.

    The session can only read the store: no file, no network, no setting.

    Args:
        at: A snapshot's name or an ISO time; None is now.
        params: Values of `$name` parameters.
        scorer: NAME or NAME@VERSION whose verdicts are in `reward` and `passed`; None: those of collection time.
        memory_limit: Of DuckDB; the buffers of Lance's reader are not counted (`child.sql` counts them).
        timeout_s: Time limit in seconds; None is none.

    Raises QueryError when the query is wrong, writes, or takes too long, VersionNotFound for an unknown `at`, ConfigError for a scorer
    without verdicts.
    """
    con = connect(store, at, scorer=scorer, memory_limit=memory_limit, threads=threads)
    try:
        con.execute("SET temp_directory = ''")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        return _run(con, query, params, timeout_s)
    finally:
        con.close()


def connect(
    store: LanceStore,
    at: str | None = None,
    *,
    scorer: str | None = None,
    memory_limit: str = "4GB",
    threads: int | None = None,
) -> "duckdb.DuckDBPyConnection":
    """A DuckDB connection with the tables and views registered, for our own code: nothing is locked. Close it when done.

    With a scorer, `rollouts` and every view over it hold that scorer's verdicts, null where it has none.
    """
    import duckdb

    settings: dict[str, Any] = {"memory_limit": memory_limit, "python_enable_replacements": False}
    if threads is not None:
        settings["threads"] = threads
    con = duckdb.connect(config=settings)
    con.execute("SET TimeZone = 'UTC'")
    at = at if at is not None else store.at
    versions = store.versions(at) if at is not None else None
    rescored = is_chosen(scorer)
    for table in TABLES.values():
        name = "collected_rollouts" if rescored and table.name == "rollouts" else table.name
        _register(con, name, table, _source(store, table.name, versions))
    if scorer is not None and rescored:
        known = con.execute("SELECT DISTINCT scorer, scorer_version FROM scores ORDER BY ALL").fetchall()
        refuse_unknown_scorer(scorer, known, at)
        con.execute(f"CREATE VIEW rollouts AS {rollouts_sql('collected_rollouts', scorer)}")
    con.execute(MACRO)
    register_texts(con, store)
    for view in VIEWS:
        con.execute(f"CREATE VIEW {view} AS {_read(f'views/{view}.sql')}")
    return con


def _register(con: "duckdb.DuckDBPyConnection", name: str, table: Table, source: Any) -> None:
    if set(table.schema.names) <= set(source.schema.names):
        con.register(name, source)
        return
    # A version that an older rollhouse wrote lacks columns: they are null in it.
    con.register(f"{name}_then", source)
    con.register(f"{name}_now", table.schema.empty_table())
    con.execute(f"CREATE VIEW {name} AS SELECT * FROM {name}_then UNION ALL BY NAME SELECT * FROM {name}_now")


def _source(store: LanceStore, table: str, versions: dict[str, int] | None) -> Any:
    if versions is None and (not TABLES[table].later or store.has_table(table)):
        return store.lance_dataset(table)
    if versions is None or table not in versions:
        return TABLES[table].schema.empty_table()
    return store.lance_dataset_version(table, versions[table])


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
    if kind == duckdb.StatementType.MULTI and _is_reading_pivot(text):
        return
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(f"That is a {kind.name} statement.", "Only SELECT and EXPLAIN are let through.")
    tree = con.execute("SELECT json_serialize_sql($query)", {"query": text}).fetchall()[0][0]
    if _WRITING_CTE.search(tree):
        raise QueryError("The query writes inside a WITH.", "Only SELECT and EXPLAIN are let through.")


def _is_reading_pivot(text: str) -> bool:
    words = _keywords(_EXPLAIN.sub("", text, count=1))
    return bool(words) and words[0] in _READING_STARTS and not _WRITING_WORDS & set(words)


def _keywords(text: str) -> list[str]:
    """The statement's keywords in order, lower case; strings, comments and quoted names are none."""
    import duckdb

    data = text.encode()
    return [
        match.group().decode().lower()
        for start, kind in duckdb.tokenize(text)
        if kind == duckdb.token_type.keyword and (match := re.compile(rb"\w+").match(data, start))
    ]


def _advice(message: str) -> str:
    if "does not exist" in message or "not found" in message:
        return f"Tables: {', '.join(TABLES)}; views: {', '.join(VIEWS)}; columns: docs/store.md."
    if "Permission" in message or "disabled by configuration" in message:
        return "A query reads the store and nothing else."
    return "See docs/sql.md."


def _one_line(message: str) -> str:
    return " ".join(message.split("LINE 1:")[0].split()).rstrip(".") + "."


def _read(path: str) -> str:
    return (resources.files("rollhouse.queries") / path).read_text(encoding="utf-8")
