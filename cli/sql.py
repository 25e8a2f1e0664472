"""`rollhouse sql` and `rollhouse query`: asking the store."""

from typing import Annotated

import typer

from ..base.errors import ConfigError
from .common import AtOption, Format, FormatOption, ScorerOption, StoreOption, open_store, print_answer, print_rows

TimeoutOption = Annotated[float | None, typer.Option("--timeout", help="Stop after N seconds.")]
MemoryOption = Annotated[str, typer.Option("--memory", help="What the query's process may hold.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("sql")(sql)
    app.command("query")(query)


def sql(
    text: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT or EXPLAIN.")],
    store: StoreOption = None,
    at: AtOption = None,
    scorer: ScorerOption = None,
    format: FormatOption = Format.table,
    timeout: TimeoutOption = None,
    memory: MemoryOption = "4GB",
) -> None:
    """Answer one SELECT over the tables and views of the store; it can read nothing else and change nothing.

    rollhouse sql "select run_id, avg(reward) from final_rollouts group by run_id" --at before-sft
    """
    from ..queries.child import sql as answer

    print_answer(answer(open_store(store), text, at, scorer=scorer, memory_limit=memory, timeout_s=timeout), format)


def query(
    name: Annotated[str | None, typer.Argument(help="Name of the query; without one, they are listed.")] = None,
    params: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Its parameters.")] = None,
    store: StoreOption = None,
    at: AtOption = None,
    scorer: ScorerOption = None,
    format: FormatOption = Format.table,
    timeout: TimeoutOption = None,
    memory: MemoryOption = "4GB",
) -> None:
    """Answer a named query, or list them.

    rollhouse query pass_rate_by_task run=base-collect
    """
    from ..queries.named import list_queries, run_query

    if name is None:
        listed = [
            {"query": query.name, "answers": query.purpose, "parameters": " ".join(p.name for p in query.parameters)}
            for query in list_queries()
        ]
        print_rows(listed, format)
        return
    given = dict(_name_and_value(param) for param in params or [])
    limits = {"memory_limit": memory, "timeout_s": timeout}
    print_answer(run_query(open_store(store), name, given, at, in_child=True, scorer=scorer, **limits), format)


def _name_and_value(param: str) -> tuple[str, str]:
    name, equals, value = param.partition("=")
    if not equals:
        raise ConfigError(f"{param!r} is not a parameter.", "Write NAME=VALUE.")
    return name, value
