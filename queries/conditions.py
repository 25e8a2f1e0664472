"""A condition of the user's on `rollouts`, combined with others so that it stays one."""

from ..base.errors import QueryError


def filtered_rollouts(where: str | None) -> str:
    """`rollouts` as a FROM clause takes it, narrowed by a condition in DuckDB's SQL.

    Raises QueryError for a condition that is none by itself: `1=1) or (1=1` would make the conditions beside it void.
    """
    if where is None or not where.strip():
        return "rollouts"
    import duckdb

    try:
        statements = duckdb.connect().extract_statements(f"SELECT 1 WHERE {where}\n")
    except duckdb.Error as error:
        raise QueryError(f"The condition is not SQL: {_reason(error)}.", "Write one condition on columns of rollouts, such as `reward < 0.5 and n_turns > 3`.") from None  # fmt: skip
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("The condition holds several statements.", "Write one condition on columns of rollouts.")
    # A line end of its own: a comment at the end takes nothing with it.
    return f"(SELECT * FROM rollouts WHERE {where}\n) AS rollouts"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split("LINE 1:")[0].split()).rstrip(".")[:200]
