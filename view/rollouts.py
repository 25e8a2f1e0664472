"""The rollouts page: one page of the table, the total, and the facets."""

from collections.abc import Sequence
from typing import Any

from ..queries.conditions import filtered_rollouts
from ..queries.sql_store import SqlStore
from .filters import FIELDS, PLANNED, Clause, order_by, read_filter
from .query import Query, one_of, whole
from .reader import Reader, plain

PAGE = 100
RANKED = 10_000
"""How many of the newest rollouts `interesting` ranks: ranking needs their groups and verdicts, and the rest would cost more than a filter may."""
MARKS = ("is_flipped", "is_mixed", "has_errors", "is_unfinished")
_WHERE_TIMEOUT_S = 10.0
_WHERE_MEMORY = "512MB"
_COLUMNS = (
    "rollout_id", "run_id", "step", "environment", "status", "reward", "passed", "policy_version", "n_turns", "n_tool_calls", "n_tool_errors",
    "n_tokens", "group_id", "task_id", "sample_index", "attempt", "error_type", "started_at", "duration_s",
)  # fmt: skip
_INTERESTING = """
WITH newest AS (
  SELECT r.rollout_id AS rollout_id, r.group_id AS group_id, r.status AS status, r.passed AS passed, r.n_tool_errors AS n_tool_errors, r.started_at AS started_at
  {source} ORDER BY r.started_at DESC NULLS LAST, r.rollout_id LIMIT {ranked}
), mixed AS (
  SELECT group_id FROM rollouts WHERE group_id IN (SELECT group_id FROM newest) GROUP BY group_id HAVING min(reward) < max(reward)
), flipped AS (
  SELECT rollout_id FROM (SELECT rollout_id, passed FROM scores WHERE passed IS NOT NULL UNION ALL SELECT rollout_id, passed FROM newest WHERE passed IS NOT NULL)
  WHERE rollout_id IN (SELECT rollout_id FROM newest) GROUP BY rollout_id HAVING bool_or(passed) AND NOT bool_and(passed)
), ranked AS (
  SELECT rollout_id, started_at,
    rollout_id IN (SELECT rollout_id FROM flipped) AS is_flipped,
    coalesce(group_id IN (SELECT group_id FROM mixed), false) AS is_mixed
  , coalesce(n_tool_errors, 0) > 0 AS has_errors, status <> 'completed' AS is_unfinished FROM newest
)
SELECT rollout_id, is_flipped, is_mixed, has_errors, is_unfinished FROM ranked
ORDER BY is_flipped::INT * 8 + has_errors::INT * 3 + is_unfinished::INT * 3 + is_mixed::INT * 2 DESC, started_at DESC NULLS LAST, rollout_id"""


def page(reader: Reader, query: Query) -> dict[str, Any]:
    """The rows from `offset` on, at most `limit` (100) of them, in the order of `sort`.

    Returns:
        rows, total (rollouts in the filter), shown (how many of these the order covers) and sql (the filter as text to copy).
    """
    offset, limit = whole(query, "offset", 0), min(whole(query, "limit", PAGE), 500)
    sort, where = one_of(query, "sort") or "interesting", one_of(query, "where")
    clause = read_filter(query)
    if sort == "interesting":
        found = ranked(reader, query)[offset : offset + limit]
        order = "ORDER BY r.started_at DESC NULLS LAST, r.rollout_id"
    else:
        order = order_by(clause, sort)
        # A join costs more than counting its rows along, so it is made once.
        counted = ", count(*) OVER () AS total" if clause.joins else ""
        text = f"SELECT r.rollout_id{counted} {_source(clause, where)} {order} LIMIT {limit} OFFSET {offset}"
        found = _ask(reader, text, clause.params, where)
        if counted and found:
            reader.cached(("total", _key(query)), lambda: found[0]["total"])
    rows = describe(reader, [row["rollout_id"] for row in found])
    marks = {row["rollout_id"]: row for row in found}
    for row in rows:
        row["marks"] = [name for name in MARKS if marks[row["rollout_id"]].get(name)]  # fmt: skip
    counted = f"SELECT count(*) AS n {_source(clause, where)}"
    total = reader.cached(("total", _key(query)), lambda: _ask(reader, counted, clause.params, where)[0]["n"])
    copied = _source(clause, where).removeprefix("FROM")
    named = Clause(clause.conditions, clause.joins, clause.params).text(
        "SELECT r.rollout_id, r.reward, r.status", order
    )
    if where:
        named = f"SELECT r.rollout_id, r.reward, r.status FROM {copied} {order}"
    return {"rows": rows, "total": total, "shown": min(total, RANKED) if sort == "interesting" else total, "sql": named}


def ids(reader: Reader, query: Query, rollout_id: str) -> dict[str, Any]:
    """The rollouts before and after one in the filter, among the first 10,000 of its order: `previous`, `next`, `position` (from 0), `total`; null where there is none."""
    listed = page_ids(reader, query)
    at = listed.index(rollout_id) if rollout_id in listed else None
    if at is None:
        return {"previous": None, "next": listed[0] if listed else None, "position": None, "total": len(listed)}
    return {
        "previous": listed[at - 1] if at else None,
        "next": listed[at + 1] if at + 1 < len(listed) else None,
        "position": at,
        "total": len(listed),
    }


def page_ids(reader: Reader, query: Query) -> list[str]:
    """The ids of the first 10,000 rollouts of the filter, in its order."""
    sort, where = one_of(query, "sort") or "interesting", one_of(query, "where")
    if sort == "interesting":
        return [row["rollout_id"] for row in ranked(reader, query)]
    clause = read_filter(query)
    order = order_by(clause, sort)
    text = f"SELECT r.rollout_id {_source(clause, where)} {order} LIMIT {RANKED}"
    return reader.cached(
        ("ids", _key(query), sort), lambda: [row["rollout_id"] for row in _ask(reader, text, clause.params, where)]
    )


def ranked(reader: Reader, query: Query) -> list[dict[str, Any]]:
    """The newest rollouts of the filter with their marks, most marks first."""
    clause, where = read_filter(query), one_of(query, "where")
    text = _INTERESTING.format(source=_source(clause, where), ranked=RANKED)
    return reader.cached(("ranked", _key(query)), lambda: _ask(reader, text, clause.params, where))


def _key(query: Query) -> Any:
    """The filter of a query, for a cache."""
    return tuple((name, tuple(values)) for name, values in sorted(query.items()) if name in FIELDS or name == "where")


def describe(reader: Reader, rollout_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The table's columns of each rollout, in the given order."""
    if not rollout_ids:
        return []
    listed = list(rollout_ids)
    rows = reader.rollouts(listed, _COLUMNS)
    tasks = sorted({row["task_id"] for row in rows if row["task_id"]})
    categories = {}
    if tasks:
        query = f"SELECT task_id, category FROM tasks WHERE task_id IN ({_names(len(tasks))})"
        categories = {row["task_id"]: row["category"] for row in reader.rows(query, **_named(tasks))}
    steps = sorted({row["step"] for row in rows if row["step"] is not None})
    plans: dict[tuple[str, str], dict[str, Any]] = {}
    if steps:
        runs = sorted({row["run_id"] for row in rows})
        narrow = PLANNED.replace(
            "FROM batch_plans",
            f"FROM batch_plans WHERE run_id IN ({_names(len(runs))}) AND step IN ({', '.join(map(str, steps))})",
        )
        query = f"SELECT run_id, rollout_id, plan_version, advantage, kept, reason FROM {narrow} WHERE rollout_id IN ({_names(len(listed), len(runs))})"
        plans = {(row["run_id"], row["rollout_id"]): row for row in reader.rows(query, **_named([*runs, *listed]))}
    for row in rows:
        plan = plans.get((row["run_id"], row["rollout_id"]), {})
        stale = None if not plan or row["policy_version"] is None else plan["plan_version"] - row["policy_version"]
        row |= {"category": categories.get(row["task_id"]), "staleness": stale}
        row |= {name: plan.get(name) for name in ("advantage", "kept", "reason")}
    place = {rollout_id: at for at, rollout_id in enumerate(listed)}
    return sorted(rows, key=lambda row: place[row["rollout_id"]])


# Counted in one pass if the filter does not name them; the others need a join or a separate pass.
_PLAIN = ("run", "env", "status", "passed", "error", "engine", "version")
_JOINED = ("category", "kept", "reason")
_FACET_VALUES = 30


def facets(reader: Reader, query: Query) -> dict[str, Any]:
    """For each facet its commonest values with counts, under the filter without the facet's own part, and for each number its ends and a histogram.

    Returns:
        choices: name → [{value, n}], at most 30, commonest first; ranges: name → {low, high, bins: ten counts}, without fields that hold no number;
        scorers and datasets: [{value: NAME@VERSION, n}]; labels: [{value, n}], n rollouts.
    """
    return reader.cached(("facets", _key(query)), lambda: _facets(reader, query, one_of(query, "where")))


def _facets(reader: Reader, query: Query, where: str) -> dict[str, Any]:
    planned = reader.row("SELECT count(*) AS n FROM batch_plans")
    joined = [name for name in _JOINED if FIELDS[name].needs != "p" or (planned and planned["n"])]
    together = [name for name in _PLAIN if not query.get(name)]
    choices = _counted_together(reader, query, where, together)
    for name in [*(name for name in _PLAIN if name not in together), *joined]:
        choices[name] = _counted(reader, query, where, name)
    return {
        "choices": choices,
        "ranges": _ranges(reader, query, where),
        "scorers": _scorers(reader),
        "datasets": _datasets(reader),
        "labels": _labels(reader),
    }


def _counted_together(
    reader: Reader, query: Query, where: str, names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    clause = read_filter(query)
    columns = [FIELDS[name].column for name in names]
    listed = ", ".join(f"{column} AS {name}_" for name, column in zip(names, columns, strict=True))
    places = ", ".join(f"({column})" for column in columns)
    text = f"SELECT {listed}, grouping({', '.join(columns)}) AS which, count(*) AS n {_source(clause, where)} GROUP BY GROUPING SETS ({places})"
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row in _ask(reader, text, clause.params, where):
        # `grouping` has a bit for each column that the row is not grouped by, the first column's highest.
        name = next(name for at, name in enumerate(names) if not row["which"] >> (len(names) - 1 - at) & 1)
        found[name].append({"value": _word(row[f"{name}_"]), "n": row["n"]})
    return {
        name: sorted(rows, key=lambda row: (-row["n"], row["value"] or ""))[:_FACET_VALUES]
        for name, rows in found.items()
    }


def _counted(reader: Reader, query: Query, where: str, name: str) -> list[dict[str, Any]]:
    clause = read_filter(query, without=name)
    column = FIELDS[name].column
    if name == "category" and not clause.joins:
        # Tasks are few beside rollouts: counting by task first keeps the join small.
        counted = f"SELECT r.task_id AS task_id, count(*) AS n {_source(clause, where)} GROUP BY 1"
        text = f"SELECT t.category AS value, sum(c.n)::BIGINT AS n FROM ({counted}) AS c LEFT JOIN tasks AS t ON t.task_id = c.task_id GROUP BY 1"
    else:
        text = f"SELECT {column} AS value, count(*) AS n {_source(clause, where, FIELDS[name].needs)} GROUP BY 1"
    rows = _ask(reader, f"{text} ORDER BY n DESC, value LIMIT {_FACET_VALUES}", clause.params, where)
    return [row | {"value": _word(row["value"])} for row in rows]


def _word(value: Any) -> str | None:
    """A facet's value as in the URL."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_RANGES = ("step", "reward", "turns", "calls", "errors", "tokens")
_BINS = 10


def _ranges(reader: Reader, query: Query, where: str) -> dict[str, Any]:
    clause = read_filter(query)
    columns = ", ".join(
        f"min({FIELDS[name].column}) AS {name}_low, max({FIELDS[name].column}) AS {name}_high" for name in _RANGES
    )
    ends = _ask(reader, f"SELECT {columns} {_source(clause, where)}", clause.params, where)[0]
    found = {}
    counted = []
    for name in _RANGES:
        low, high = ends[f"{name}_low"], ends[f"{name}_high"]
        if low is None:
            continue
        found[name] = {"low": low, "high": high, "bins": [0] * _BINS}
        width = (high - low) or 1
        column = FIELDS[name].column
        place = f"CASE WHEN {column} IS NOT NULL THEN least({_BINS - 1}, floor(({column} - {low!r}) / {width!r} * {_BINS}))::INT END"
        counted += [f"count(*) FILTER ({place} = {at}) AS {name}_{at}" for at in range(_BINS)]
    if counted:
        row = _ask(reader, f"SELECT {', '.join(counted)} {_source(clause, where)}", clause.params, where)[0]
        for name, entry in found.items():
            entry["bins"] = [row[f"{name}_{at}"] for at in range(_BINS)]
    return found


def _scorers(reader: Reader) -> list[dict[str, Any]]:
    return reader.rows(
        "SELECT scorer || '@' || scorer_version AS value, count(*) AS n FROM scores GROUP BY 1 ORDER BY n DESC LIMIT 30"
    )


def _datasets(reader: Reader) -> list[dict[str, Any]]:
    return reader.rows(
        "SELECT name || '@' || version AS value, n_rows AS n FROM datasets WHERE kind <> 'grpo' ORDER BY created_at DESC LIMIT 30"
    )


def _labels(reader: Reader) -> list[dict[str, Any]]:
    query = "SELECT label AS value, count(DISTINCT rollout_id) AS n FROM current_labels GROUP BY 1 ORDER BY n DESC, 1 LIMIT 30"
    return reader.rows(query)


def _source(clause: Clause, where: str, *more: str) -> str:
    source = clause.source(*more)
    if not where:
        return source
    own = f"r.rollout_id IN (SELECT rollout_id FROM {filtered_rollouts(where)})"
    return f"{source} AND {own}" if clause.conditions else f"{source} WHERE {own}"


def _ask(reader: Reader, text: str, params: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Internal queries use a cached connection; a condition of a user gets the checks and limits of `rollhouse sql`."""
    if not where:
        return reader.rows(text, **params)
    return plain(guarded(reader.store, text, params).to_pylist())


def guarded(store: SqlStore, text: str, params: dict[str, Any] | None = None) -> Any:
    """The result of a query with a part written by a user, as Arrow: checked to be one SELECT, without files, within ten seconds."""
    return store.sql(text, params=params or None, memory=_WHERE_MEMORY, timeout_s=_WHERE_TIMEOUT_S).arrow()


def _names(n: int, start: int = 0) -> str:
    return ", ".join(f"$k{at}" for at in range(start, start + n))


def _named(values: Sequence[Any]) -> dict[str, Any]:
    return {f"k{at}": value for at, value in enumerate(values)}
