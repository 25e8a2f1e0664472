"""Recipes that are more than options: a SELECT over the store, or a Python function over the candidates, that names ids."""

from pathlib import Path
from typing import Any

import polars as pl

from ..base.errors import ConfigError, EmptyDataset, one_line
from ..queries.session import sql
from ..store.lance_store import LanceStore
from .options import SourceOptions

# What a recipe may answer with, the most telling first.
ANSWERS = (("chosen_id", "rejected_id"), ("rollout_id",), ("task_id",))


def chosen_ids(
    store: LanceStore, snapshot: str, candidates: pl.DataFrame, options: SourceOptions
) -> pl.DataFrame | None:
    """What the recipe's SELECT or function names, in columns of one of ANSWERS; None where it has neither.

    Raises:
        QueryError: The SELECT is not one, or fails.
        ConfigError: The function cannot be run, or the answer has no such column.
        EmptyDataset: It names nothing.
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
            f"{what[0].upper()}{what[1:]} answers with {', '.join(answer.columns) or 'nothing'}.",
            "Let it give rollout_id, task_id, or chosen_id and rejected_id.",
        )
    if answer.is_empty():
        raise EmptyDataset(f"The dataset would be empty: {what} names no rollout.", "Loosen it.")
    return answer.select(pl.col(name).cast(pl.String) for name in columns)


def read_function(reference: str) -> tuple[str, str]:
    """`FILE.py:NAME` as (source of the file, NAME). The source is what a version keeps, so the file may move or change."""
    file, colon, name = reference.rpartition(":")
    if not colon or not name.isidentifier():
        raise ConfigError(f"{reference!r} does not name a function.", "Write FILE.py:NAME.")
    try:
        return Path(file).read_text(encoding="utf-8"), name
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error)}.", "Check the path.") from error


def read_sql(file: str) -> str:
    """The text of a SELECT in a file. Raises ConfigError when it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8").strip().rstrip(";")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error)}.", "Check the path.") from error


def _call(source: str, name: str, candidates: pl.DataFrame) -> pl.DataFrame:
    # The user's own code, as any script of theirs: it may do what they may.
    scope: dict[str, Any] = {"__name__": "recipe"}
    try:
        exec(compile(source, f"<recipe {name}>", "exec"), scope)
        answer = scope[name](candidates.lazy())
        answer = answer.collect() if isinstance(answer, pl.LazyFrame) else answer
    except KeyError as error:
        raise ConfigError(f"The recipe's source has no function {error}.", "Name one that it defines.") from error
    except Exception as error:
        raise ConfigError(
            f"The recipe's function {name} failed: {type(error).__name__}: {one_line(error)}.", "Correct it."
        ) from error
    if not isinstance(answer, pl.DataFrame):
        raise ConfigError(f"The recipe's function {name} gave a {type(answer).__name__}.", "Return a LazyFrame.")
    return answer
