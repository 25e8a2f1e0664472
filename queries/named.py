"""Named queries: one .sql file each. The first comment line is the question, `$name` are parameters."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pyarrow as pa

from ..base.errors import ConfigError, StoreNotFound
from ..store.lance_store import LanceStore
from ..store.naming import run_named
from . import child, session

_PARAMETER = re.compile(r"^-- \$(\w+) (\w+)(?: = (.*?))?: (.*)$", re.MULTILINE)
_MOST = 2**31 - 1
_TYPES = {"text": str, "integer": int, "number": float}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a query.

    Attributes:
        type: text, integer or number.
        default: Text of the default; None when the caller must give a value, "null" for no value.
        doc: Its meaning.
    """

    name: str
    type: str
    default: str | None
    doc: str


@dataclass(frozen=True)
class Query:
    """One named query. `purpose` is the question it answers."""

    name: str
    purpose: str
    parameters: tuple[Parameter, ...]
    text: str


def list_queries() -> list[Query]:
    """Every named query, by name."""
    files = [file for file in resources.files("rollhouse.queries").iterdir() if file.name.endswith(".sql")]
    return sorted((parse(file.name[:-4], file.read_text(encoding="utf-8")) for file in files), key=lambda q: q.name)


def get_query(name: str) -> Query:
    """The query of that name. Raises ConfigError naming similar ones."""
    queries = {query.name: query for query in list_queries()}
    if name not in queries:
        near = difflib.get_close_matches(name, queries, n=3, cutoff=0.4) or sorted(queries)
        raise ConfigError(f"There is no query {name!r}.", f"Did you mean {', '.join(near)}?")
    return queries[name]


def run_query(
    store: LanceStore, name: str, params: Mapping[str, Any] | None = None, at: str | None = None, *,
    in_child: bool = False, **options: Any
) -> pa.Table:  # fmt: skip
    """The answer of a named query as Arrow.

    `params` values may be text (from a command line); they are read in the type the query states; `run` may be a beginning of a run's name or `latest`. `options` are those of `session.sql`, or of
    `child.sql` when the query is to run in a process of its own.
    Raises ConfigError for an unknown query or parameter, a missing one, or a value of the wrong type, StoreNotFound for a run or dataset that is not there.
    """
    query = get_query(name)
    ask = child.sql if in_child else session.sql
    return ask(store, query.text, at, _named_in(store, bind(query, params or {})), **options)


def _named_in(store: LanceStore, values: dict[str, Any]) -> dict[str, Any]:
    """The values with whole names of runs. Raises StoreNotFound for a run or dataset that is not there, ConfigError for a beginning of several runs."""
    if values.get("run") is not None:
        values["run"] = run_named(store, values["run"])
    dataset = values.get("dataset")
    if dataset is not None:
        there = set(store.read("datasets", ["name"])["name"].to_pylist())
        if dataset not in there:
            near = difflib.get_close_matches(dataset, there, n=1)
            raise StoreNotFound(f"There is no dataset {dataset!r} in {store.uri}.", f"Did you mean {near[0]}?" if near else "`rollhouse dataset list` names them.")  # fmt: skip
    return values


def bind(query: Query, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all parameters: those given, defaults for the rest."""
    known = {parameter.name: parameter for parameter in query.parameters}
    for name in given:
        if name not in known:
            has = f"It has {', '.join(sorted(known))}." if known else "It has none."
            raise ConfigError(f"Query {query.name} has no parameter {name!r}.", has)
    missing = [name for name, parameter in known.items() if name not in given and parameter.default is None]
    if missing:
        raise ConfigError(
            f"Query {query.name} needs {missing[0]}: {known[missing[0]].doc}", f"Give {missing[0]}=VALUE."
        )
    return {name: _value(query, parameter, given.get(name, parameter.default)) for name, parameter in known.items()}


def _value(query: Query, parameter: Parameter, value: Any) -> Any:
    if value is None or value == "null":
        return None
    try:
        read = _TYPES[parameter.type](value)
        if isinstance(read, int) and abs(read) > _MOST:
            raise ValueError
        return read
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{parameter.name}={value!r} of query {query.name} is not of type {parameter.type}.", parameter.doc
        ) from None


def parse(name: str, text: str) -> Query:
    """A query from its text: the first line, and the parameters that its comments declare."""
    purpose = (text.splitlines() or [""])[0].removeprefix("-- ")
    parameters = tuple(Parameter(*match.groups()) for match in _PARAMETER.finditer(text))
    return Query(name, purpose, parameters, text)
