"""The filter of the rollouts page: the URL's parameters as a WHERE clause over narrow columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import ConfigError

# One entry per rollout and plan of the run that collected it. Only narrow columns, so that a join costs little.
PLANNED = """(
  SELECT run_id, step, policy_version AS plan_version, entry.rollout_id AS rollout_id, entry.advantage AS advantage, entry.kept AS kept, entry.reason AS reason
  FROM (SELECT run_id, step, policy_version, unnest(entries) AS entry FROM batch_plans)
)"""
_JOINS = {
    "t": "LEFT JOIN (SELECT task_id, category, split FROM tasks) AS t ON t.task_id = r.task_id",
    "p": f"LEFT JOIN {PLANNED} AS p ON p.rollout_id = r.rollout_id AND p.run_id = r.run_id",
}
# Lambdas search lists: a correlated subquery would hold every message of the store in memory.
_SAID = """len(list_filter(r.messages, lambda m:
  contains(lower(concat(m.text, ' ', m.reasoning)), lower({words}))
  OR len(list_filter(coalesce(m.tool_calls, []), lambda c: contains(lower(concat(c.name, ' ', c.arguments)), lower({words})))) > 0)) > 0"""
_NOTHING = "~"
"""Stands for null in a choice: `category=~` is the rollouts without one."""


@dataclass(frozen=True)
class Field:
    """One field of the filter.

    Attributes:
        kind: choice (equal to any of the values), range (`low..high`, either end may be missing), flag (true, false or `~` for null), or
            a condition of its own, with `{value}` where the parameter goes.
        column: The filtered expression.
        needs: The joins that the expression reads.
        sortable: Whether the table may be sorted by it.
    """

    kind: str
    column: str
    needs: str = ""
    sortable: bool = True


FIELDS: dict[str, Field] = {
    "run": Field("choice", "r.run_id"),
    "step": Field("range", "r.step"),
    "env": Field("choice", "r.environment"),
    "category": Field("choice", "t.category", "t"),
    "split": Field("choice", "t.split", "t"),
    "status": Field("choice", "r.status"),
    "passed": Field("flag", "r.passed"),
    "reward": Field("range", "r.reward"),
    "advantage": Field("range", "p.advantage", "p"),
    "kept": Field("flag", "p.kept", "p"),
    "reason": Field("choice", "p.reason", "p"),
    "version": Field("range", "r.policy_version"),
    "staleness": Field("range", "p.plan_version - r.policy_version", "p"),
    "turns": Field("range", "r.n_turns"),
    "calls": Field("range", "r.n_tool_calls"),
    "errors": Field("range", "r.n_tool_errors"),
    "tokens": Field("range", "r.n_tokens"),
    "seconds": Field("range", "r.duration_s"),
    "engine": Field("choice", "r.engine"),
    "policy": Field("choice", "r.policy_id"),
    "error": Field("choice", "r.error_type"),
    "attempt": Field("range", "r.attempt"),
    "started": Field("range", "r.started_at"),
    "group": Field("choice", "r.group_id"),
    "task": Field("choice", "r.task_id"),
    "gap": Field("list_contains(r.gaps, {value})", "r.gaps", sortable=False),
    "tool": Field("len(list_filter(r.messages, lambda m: len(list_filter(coalesce(m.tool_calls, []), lambda c: c.name = {value})) > 0)) > 0", "", sortable=False),
    "scorer": Field("", "", sortable=False),
    "dataset": Field("", "", sortable=False),
    "label": Field("r.rollout_id IN (SELECT rollout_id FROM current_labels WHERE label = {value})", "", sortable=False),
    "q": Field(_SAID.replace("{words}", "{value}"), "", sortable=False),
}  # fmt: skip


@dataclass
class Clause:
    """A filter as SQL.

    Attributes:
        conditions: Joined by AND; none is everything.
        joins: Names of _JOINS that conditions and order need.
        params: Values of the `$name` parameters.
    """

    conditions: list[str] = field(default_factory=list)
    joins: set[str] = field(default_factory=set)
    params: dict[str, Any] = field(default_factory=dict)

    def value(self, value: Any) -> str:
        """The name under which the value is passed."""
        name = f"v{len(self.params)}"
        self.params[name] = value
        return f"${name}"

    def source(self, *more: str) -> str:
        """FROM and WHERE, with the joins that are needed and `more` of them."""
        joins = [text for name, text in _JOINS.items() if name in self.joins or name in more]
        where = f" WHERE {' AND '.join(self.conditions)}" if self.conditions else ""
        return " ".join(["FROM rollouts AS r", *joins]) + where

    def text(self, select: str, tail: str = "") -> str:
        """The query with literal values, for copying."""
        query = f"{select} {self.source()} {tail}".strip()
        # Long names first: $v1 is the beginning of $v10.
        for name, value in sorted(self.params.items(), key=lambda item: -len(item[0])):
            query = query.replace(f"${name}", _literal(value))
        return " ".join(query.split())


def read_filter(query: Mapping[str, Sequence[str]], without: str = "") -> Clause:
    """The filter in a URL's parameters; other names are ignored. `without` leaves one field out.

    Raises ConfigError for an invalid value.
    """
    clause = Clause()
    for name, field_ in FIELDS.items():
        values = [value for value in query.get(name, ()) if value != ""]
        if values and name != without:
            clause.joins.update(field_.needs)
            clause.conditions.append(f"({_condition(clause, name, field_, values)})")
    return clause


def order_by(clause: Clause, sort: str) -> str:
    """The ORDER BY of `sort=reward` or `sort=-reward` (descending), with the rollout_id last so that pages fit. Raises ConfigError for another name."""
    name = sort.removeprefix("-")
    field_ = FIELDS.get(name)
    if field_ is None or not field_.sortable:
        raise ConfigError(f"Rollouts are not sorted by {name!r}.", f"Use one of {', '.join(sorted(n for n, f in FIELDS.items() if f.sortable))}.")  # fmt: skip
    clause.joins.update(field_.needs)
    return f"ORDER BY {field_.column} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST, r.rollout_id"


def _condition(clause: Clause, name: str, field_: Field, values: Sequence[str]) -> str:
    if name == "scorer":
        return " AND ".join(f"({_judged(clause, value)})" for value in values)
    if name == "dataset":
        return " OR ".join(_member(clause, value) for value in values)
    if field_.kind == "choice":
        found = [value for value in values if value != _NOTHING]
        parts = [f"{field_.column} IN ({', '.join(clause.value(value) for value in found)})"] if found else []
        return " OR ".join([*parts, *([f"{field_.column} IS NULL"] if _NOTHING in values else [])])
    if field_.kind == "flag":
        return " OR ".join(_flag(name, field_.column, value) for value in values)
    if field_.kind == "range":
        return " OR ".join(_range(clause, name, field_.column, value) for value in values)
    return " AND ".join(field_.kind.replace("{value}", clause.value(value)) for value in values)


def _flag(name: str, column: str, value: str) -> str:
    if value not in ("true", "false", _NOTHING):
        raise ConfigError(f"{name}={value} is not a filter.", "Use true, false or ~ for no value.")
    return f"{column} IS NULL" if value == _NOTHING else f"{column} IS {value.upper()}"


def _range(clause: Clause, name: str, column: str, value: str) -> str:
    if value == _NOTHING:
        return f"{column} IS NULL"
    low, dots, high = value.partition("..")
    if not dots:
        return f"{column} = {clause.value(_bound(name, low))}"
    ends = [f"{column} >= {clause.value(_bound(name, low))}"] if low else []
    ends += [f"{column} <= {clause.value(_bound(name, high))}"] if high else []
    return " AND ".join(ends) or "TRUE"


def _bound(name: str, text: str) -> Any:
    from datetime import datetime

    try:
        return datetime.fromisoformat(text) if name == "started" else float(text)
    except ValueError:
        kind = "an ISO time" if name == "started" else "a number"
        raise ConfigError(f"{name}: {text!r} is not {kind}.", "Write LOW..HIGH, LOW.. or ..HIGH.") from None


def _judged(clause: Clause, value: str) -> str:
    """`NAME@VERSION:passed`, `:failed` or `:flipped` (unlike the verdict of collection time); without one, any verdict."""
    scorer, _, verdict = value.rpartition(":") if value.rpartition(":")[2] in ("passed", "failed", "flipped") else (value, "", "")  # fmt: skip
    name, _, version = scorer.partition("@")
    condition = f"scorer = {clause.value(name)}" + (f" AND scorer_version = {clause.value(version)}" if version else "")
    condition += {"passed": " AND passed", "failed": " AND NOT passed"}.get(verdict, "")
    if verdict == "flipped":
        sides = (f"r.passed AND r.rollout_id IN (SELECT rollout_id FROM scores WHERE {condition} AND NOT passed)",
                 f"NOT r.passed AND r.rollout_id IN (SELECT rollout_id FROM scores WHERE {condition} AND passed)")  # fmt: skip
        return f"({sides[0]}) OR ({sides[1]})"
    return f"r.rollout_id IN (SELECT rollout_id FROM scores WHERE {condition})"


def _member(clause: Clause, value: str) -> str:
    name, _, version = value.partition("@")
    condition = f"name = {clause.value(name)}" + (f" AND version = {clause.value(_bound('dataset', version))}" if version else "")  # fmt: skip
    return f"r.rollout_id IN (SELECT unnest(rows).rollout_id FROM datasets WHERE {condition})"


def _literal(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "'" + str(value).replace("'", "''") + "'"
