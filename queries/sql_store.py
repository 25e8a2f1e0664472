"""The store as most people use it: the tables of the store, and the questions one can ask them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..store import lance_store
from . import child, named, session
from . import search as searching
from .answer import Answer


class SqlStore(lance_store.LanceStore):
    """A store that answers: `SqlStore.open("store").sql("select …").pl()`."""

    def sql(
        self,
        query: str,
        at: str | None = None,
        params: Mapping[str, Any] | None = None,
        *,
        scorer: str | None = None,
        memory: str = "4GB",
        timeout_s: float | None = None,
        in_child: bool = False,
    ) -> Answer:
        """The answer to one SELECT or EXPLAIN over the tables and views; the query can read nothing else and change nothing.

        Args:
            at: A snapshot's name or an ISO time; None is now.
            params: Values of `$name` parameters.
            scorer: NAME or NAME@VERSION whose verdicts stand in `reward` and `passed`; None is those of collection time.
            memory: What the query may use.
            timeout_s: Gives up after so many seconds; None never.
            in_child: Asks in a process of its own, so that Lance's buffers count as memory too (about a second more).

        Raises QueryError when the query is wrong, writes, takes too long or too much, VersionNotFound for an unknown `at`, ConfigError
        for a scorer that never scored.
        """
        ask = child.sql if in_child else session.sql
        return Answer(ask(self, query, at, params, scorer=scorer, memory_limit=memory, timeout_s=timeout_s))

    def query(self, name: str, at: str | None = None, scorer: str | None = None, **params: Any) -> Answer:
        """The answer of a named query: `store.query("pass_at_k", k=4)`. Raises ConfigError for an unknown query or parameter."""
        return Answer(named.run_query(self, name, params, at, scorer=scorer))

    def search(self, text: str, **filters: Any) -> pa.Table:
        """Rollouts whose messages or tool calls match the words, best first; see `rollhouse.queries.search.search`."""
        return searching.search(self, text, **filters)

    def nearest(self, column: str, vector: Sequence[float], **filters: Any) -> pa.Table:
        """Rollouts whose embedding is nearest to a vector; see `rollhouse.queries.search.nearest`."""
        return searching.nearest(self, column, vector, **filters)
