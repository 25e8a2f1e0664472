"""Recipes that select by code: a SELECT over the store, or a Python function over the candidates."""

from typing import Any

import polars as pl

from ..base.errors import ConfigError, EmptyDataset, one_line
from ..queries.session import sql
from ..store.lance_store import LanceStore
from .options import SourceOptions

# The columns that a recipe may return, the most specific first.
ANSWERS = (("chosen_id", "rejected_id"), ("rollout_id",), ("task_id",))


def chosen_ids(
    store: LanceStore, snapshot: str, candidates: pl.DataFrame, options: SourceOptions
) -> pl.DataFrame | None:
    """The ids that the recipe's SELECT or function returns, with the columns of one of ANSWERS; None for a recipe without either.

    Raises:
        QueryError: The SELECT is not a SELECT, or fails.
        ConfigError: The function fails, or the result has none of these columns.
        EmptyDataset: The result is empty.
    """
    if options.sql is not None:
        answer = pl.from_arrow(sql(store, options.sql, snapshot, scorer=options.scorer))
        what = "the recipe's SQL"
    elif options.function is not None and options.function_name is not None:
        answer = _call(options.function, options.function_name, candidates.sort("rollout_id"))
        what = f"the recipe's function {options.function_name}"
    else:
        return None
    assert isinstance(answer, pl.DataFrame)
    for columns in ANSWERS:
        if set(columns) <= set(answer.columns):
            break
    else:
        raise ConfigError(
            f"{what[0].upper()}{what[1:]} returns the columns {', '.join(answer.columns) or '(none)'}.",
            "Return rollout_id, task_id, or chosen_id and rejected_id.",
        )
    if answer.is_empty():
        raise EmptyDataset(f"The dataset would be empty: {what} selects no rollout.", "Make it select more.")
    return answer.select(pl.col(name).cast(pl.String) for name in columns)


def _call(source: str, name: str, candidates: pl.DataFrame) -> pl.DataFrame:
    # The user's own code runs with the user's rights, as any script of theirs does.
    scope: dict[str, Any] = {"__name__": "recipe"}
    try:
        exec(compile(source, f"<recipe {name}>", "exec"), scope)
        answer = scope[name](candidates.lazy())
        answer = answer.collect() if isinstance(answer, pl.LazyFrame) else answer
    except KeyError as error:
        raise ConfigError(
            f"The recipe's source defines no function {error}.", "Name a function that it defines."
        ) from error
    except Exception as error:
        raise ConfigError(
            f"The recipe's function {name} failed: {type(error).__name__}: {one_line(error)}.", "Correct the function."
        ) from error
    if not isinstance(answer, pl.DataFrame):
        raise ConfigError(
            f"The recipe's function {name} returned a {type(answer).__name__}.",
            "Return a Polars LazyFrame or DataFrame.",
        )
    return answer
