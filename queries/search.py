"""Search over rollouts through LanceDB: full text over messages and tool calls, and vectors of an embedding column that a user added."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..base.errors import ConfigError, QueryError, one_line
from ..store.lance_store import LanceStore, quote
from ..store.naming import run_named
from . import child
from .conditions import filtered_rollouts
from .session import sql
from .verdicts import is_chosen

# The columns of full-text search, in the order in which a match is shown.
SAID = ("messages.text", "messages.tool_calls.arguments", "messages.tool_calls.name")
# Rows that are not indexed are scanned; from this many on, they are indexed first.
_UNINDEXED = 2_000
_COLUMNS = ["rollout_id", "run_id", "step", "environment", "status", "reward", "passed"]
_AROUND = 60
_WHERE_S = 60.0
_PROMPT_ROWS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("rollouts", pa.int64()),
        ("pass_rate", pa.float64()),
        ("mean_reward", pa.float64()),
        ("score", pa.float32()),
        ("match", pa.string()),
    ]
)


def search(
    store: LanceStore,
    text: str,
    *,
    run: str | None = None,
    environment: str | None = None,
    status: str | None = None,
    where: str | None = None,
    at: str | None = None,
    scorer: str | None = None,
    limit: int = 20,
) -> pa.Table:
    """Rollouts with a message or tool call that matches the words, best first.

    Case and word endings do not matter, any of the words suffices, and rarer words weigh more. The first search makes the index, and
    later searches add many new rollouts to it; a few are scanned, so nothing stored is missed.

    Args:
        where: A condition on the columns of `rollouts`, in DuckDB's SQL: `reward < 0.5 and n_turns > 3`. It is evaluated in a process of its own, with
            the bounds of `sql`, over what matched.
        at: A snapshot's name or an ISO time: only rollouts that were there then.
        scorer: NAME or NAME@VERSION whose verdicts are in `reward` and `passed`, for `where` too; None: those of collection time.
        limit: Maximum number of rollouts.

    Returns:
        rollout_id, run_id, step, environment, status, reward, passed, score (BM25, summed over matches), match (the first match
        with some words around it).

    Raises QueryError for a `where` that is not a condition, VersionNotFound for an unknown `at`, ConfigError for a scorer without verdicts.
    """
    _refuse_nothing(text, limit)
    from lancedb.query import BooleanQuery, MatchQuery, Occur

    table = store.lancedb().open_table("rollouts")
    _index(store, table, SAID)
    # LanceDB's query over several columns fails on rows that no index covers; any one of several queries does not.
    anywhere = BooleanQuery([(Occur.SHOULD, MatchQuery(text, column)) for column in SAID])  # pyright: ignore[reportCallIssue]
    query = table.search(anywhere, query_type="fts")
    look = _Look(store, _condition(store, run, environment, status), where, at, scorer)
    found = look.first(query, [*_COLUMNS, "messages", "_score"], limit)
    rows = [
        {name: row[name] for name in _COLUMNS} | {"score": row["_score"], "match": excerpt(row["messages"] or [], text)}
        for row in found
    ]
    schema = _schema(store, pa.field("score", pa.float32()), pa.field("match", pa.string()))
    return pa.Table.from_pylist(rows, schema)


def search_prompts(store: LanceStore, text: str, *, scorer: str | None = None, limit: int = 20) -> pa.Table:
    """Prompts with a message that matches the words, best first, with the results of their rollouts.

    Returns:
        prompt_id, rollouts, pass_rate, mean_reward (over last attempts, null without any), score, match.
    """
    _refuse_nothing(text, limit)
    from lancedb.query import MatchQuery

    table = store.lancedb().open_table("prompts")
    _index(store, table, SAID[:1])
    query = table.search(MatchQuery(text, SAID[0]), query_type="fts")  # pyright: ignore[reportCallIssue]
    found = query.select(["prompt_id", "messages", "_score"]).limit(limit).to_list()
    fared = """
        SELECT prompt_id, count(*) AS rollouts, avg(passed::INT) AS pass_rate, avg(reward) AS mean_reward
        FROM final_rollouts WHERE list_contains($prompts::VARCHAR[], prompt_id) GROUP BY prompt_id"""
    answer = sql(store, fared, params={"prompts": [row["prompt_id"] for row in found]}, scorer=scorer)
    by_prompt = {row["prompt_id"]: row for row in answer.to_pylist()}
    nothing = {"rollouts": 0, "pass_rate": None, "mean_reward": None}
    rows = [
        {"prompt_id": row["prompt_id"]} | nothing | by_prompt.get(row["prompt_id"], {})
        | {"score": row["_score"], "match": excerpt(row["messages"] or [], text)}
        for row in found
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, _PROMPT_ROWS)


def nearest(
    store: LanceStore,
    column: str,
    vector: Sequence[float],
    *,
    run: str | None = None,
    environment: str | None = None,
    status: str | None = None,
    where: str | None = None,
    at: str | None = None,
    scorer: str | None = None,
    limit: int = 20,
) -> pa.Table:
    """Rollouts whose embedding is nearest to a vector, nearest first; those without one are left out.

    `column` is any column of fixed-size float lists that a user added to `rollouts`. An index on it is used if there is one;
    otherwise all vectors are compared. The other arguments are those of `search`.

    Returns:
        rollout_id, run_id, step, environment, status, reward, passed, distance (Euclidean, squared).

    Raises ConfigError when there is no such column or the vector has another length.
    """
    size = _vector_size(store, column)
    if len(vector) != size:
        raise ConfigError(f"Column {column} holds vectors of {size}, not of {len(vector)}.", "Use the same embedder.")
    table = store.lancedb().open_table("rollouts")
    query = table.search(list(vector), vector_column_name=column)
    look = _Look(store, _condition(store, run, environment, status, f"{column} is not null"), where, at, scorer)
    found = look.first(query, [*_COLUMNS, "_distance"], limit)
    rows = [{name: row[name] for name in _COLUMNS} | {"distance": row["_distance"]} for row in found]
    return pa.Table.from_pylist(rows, _schema(store, pa.field("distance", pa.float32())))


def vector_of(store: LanceStore, column: str, rollout_id: str) -> list[float]:
    """The embedding of a stored rollout. Raises ConfigError when it has none."""
    _vector_size(store, column)
    rows = store.read("rollouts", [column], f"rollout_id = {quote(rollout_id)}").to_pylist()
    if not rows or rows[0][column] is None:
        raise ConfigError(f"Rollout {rollout_id!r} has no {column}.", "Name a rollout that was embedded.")
    return rows[0][column]


def excerpt(messages: Sequence[dict[str, Any]], text: str) -> str:
    """The first occurrence of one of the words, with its context; else the start of the first message.

    Words match by their first letters, as the index cuts endings off.
    """
    # Two letters in three: `scheduling` is to be seen in `schedule`.
    stems = [re.escape(word[: max(3, len(word) * 2 // 3)]) for word in re.findall(r"\w+", text)]
    pattern = re.compile(rf"\b(?:{'|'.join(stems)})", re.IGNORECASE)
    first = ""
    for label, text in _places(messages):
        match = pattern.search(text)
        start = max(0, match.start() - _AROUND // 2) if match else 0
        shown = f"{label}: {'…' if start else ''}{' '.join(text[start : start + 2 * _AROUND].split())}"
        if match:
            return shown
        first = first or shown
    return first


def _places(messages: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for message in messages:
        if message["text"]:
            yield message["role"], message["text"]
        for call in message["tool_calls"] or []:
            yield "call", f"{call['name']}({call['arguments']})"


def _refuse_nothing(text: str, limit: int) -> None:
    if not re.search(r"\w", text):
        raise ConfigError("There is nothing to search for.", "Give one or more words.")
    if limit < 1:
        raise ConfigError(f"A limit of {limit} finds nothing.", "Ask for one row or more.")


def _index(store: LanceStore, table: Any, columns: Sequence[str]) -> None:
    from lancedb.index import FTS

    indexed = {index.columns[0]: index.name for index in table.list_indices()}
    try:
        for column in columns:
            if column not in indexed:
                table.create_index(column, config=FTS())
    except (OSError, RuntimeError, ValueError) as error:
        raise QueryError(f"The search index of {store.uri} cannot be made: {one_line(error, 200)}.", "Search once where the store can be written; a read-only store is searched with the index that it has.") from error  # fmt: skip
    stale = [name for column, name in indexed.items() if column in columns and _unindexed(table, name) >= _UNINDEXED]
    if stale:
        with contextlib.suppress(
            OSError, RuntimeError
        ):  # a store that cannot be written is searched without it, row by row
            store.lance_dataset(table.name).optimize.optimize_indices(index_names=stale)
    table.checkout_latest()


def _unindexed(table: Any, name: str) -> int:
    stats = table.index_stats(name)
    return stats.num_unindexed_rows if stats else 0


@dataclass(frozen=True)
class _Look:
    """Selects rollouts among the matches, and the verdicts that they show.

    Attributes:
        condition: What the search itself can check, in Lance's SQL; empty for nothing. It is of our making.
        where, at, scorer: As in `search`.
    """

    store: LanceStore
    condition: str
    where: str | None
    at: str | None
    scorer: str | None

    def first(self, query: Any, columns: list[str], limit: int) -> list[dict[str, Any]]:
        """The first rollouts that count, with these columns."""
        judged = is_chosen(self.scorer) or self.where is not None
        if self.condition:
            query = query.where(self.condition, prefilter=True)
        ask = limit
        while True:
            try:
                found = query.select(columns).limit(ask).to_list()
            except (RuntimeError, ValueError, OSError) as error:
                reason = " ".join(str(error).split())[:200]
                raise QueryError(
                    f"The search failed: {reason}.", f"The condition was: {self.condition or 'none'}."
                ) from None
            if not judged and self.at is None:
                return found
            # Rollouts are only added, so those of an earlier version are all in this one.
            kept = self._judged(found) if judged else self._there(found)
            if len(kept) >= limit or len(found) < ask:
                return kept[:limit]
            ask *= 4

    def _there(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not found:
            return []
        then = self.store.lance_dataset("rollouts", self.at)
        ids = then.to_table(columns=["rollout_id"], filter=f"rollout_id in ({_listed(found)})")["rollout_id"]
        known = set(ids.to_pylist())
        return [row for row in found if row["rollout_id"] in known]

    def _judged(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        ask = f"SELECT rollout_id, reward, passed FROM {filtered_rollouts(self.where)} WHERE list_contains($found::VARCHAR[], rollout_id)"
        answer = child.sql if self.where is not None else sql
        params = {"found": [row["rollout_id"] for row in found]}
        rows = answer(self.store, ask, self.at, params, scorer=self.scorer, timeout_s=_WHERE_S).to_pylist()
        verdicts = {row["rollout_id"]: row for row in rows}
        return [row | verdicts[row["rollout_id"]] for row in found if row["rollout_id"] in verdicts]


def _listed(found: list[dict[str, Any]]) -> str:
    return ", ".join(quote(row["rollout_id"]) for row in found)


def _condition(store: LanceStore, run: str | None, environment: str | None, status: str | None, *more: str) -> str:
    run = None if run is None else run_named(store, run)
    equal = {"run_id": run, "environment": environment, "status": status}
    return " and ".join(
        [*(f"{column} = {quote(value)}" for column, value in equal.items() if value is not None), *more]
    )


def _vector_size(store: LanceStore, column: str) -> int:
    schema = store.lance_dataset("rollouts").schema
    vectors = [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]
    if column not in vectors:
        has = f"It has {', '.join(vectors)}." if vectors else "See docs/sql.md for how to add one."
        raise ConfigError(f"Table rollouts has no embedding column {column!r}.", has)
    return schema.field(column).type.list_size


def _schema(store: LanceStore, *more: pa.Field) -> pa.Schema:
    stored = store.lance_dataset("rollouts").schema
    return pa.schema([*(stored.field(name) for name in _COLUMNS), *more])
