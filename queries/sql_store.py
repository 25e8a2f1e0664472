"""A store with SQL, named queries and search."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import ConfigError
from ..store import lance_store
from . import child, named, session
from . import search as searching
from .answer import Answer


class SqlStore(lance_store.LanceStore):
    """A store that can be queried: `SqlStore.open("store").sql("select …").pl()`."""

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
        """The result of one SELECT or EXPLAIN over the tables and views; the query can read nothing else and change nothing.

        Args:
            at: A snapshot's name or an ISO time; None is now.
            params: Values of `$name` parameters.
            scorer: NAME or NAME@VERSION whose verdicts are in `reward` and `passed`; None: those of collection time.
            memory: Memory limit of the query.
            timeout_s: Time limit in seconds; None is none.
            in_child: Runs the query in a process of its own, where Lance's buffers count as memory too (takes about a second more).

        Raises QueryError when the query is wrong, writes, takes too long or too much, VersionNotFound for an unknown `at`, ConfigError
        for a scorer that never scored.
        """
        ask = child.sql if in_child else session.sql
        return Answer(ask(self, query, at, params, scorer=scorer, memory_limit=memory, timeout_s=timeout_s))

    def query(self, name: str, at: str | None = None, scorer: str | None = None, **params: Any) -> Answer:
        """The result of a named query: `store.query("pass_at_k", k=4)`. Raises ConfigError for an unknown query or parameter."""
        return Answer(named.run_query(self, name, params, at, scorer=scorer))

    def search(
        self,
        text: str,
        *,
        prompts: bool = False,
        run: str | None = None,
        environment: str | None = None,
        status: str | None = None,
        where: str | None = None,
        at: str | None = None,
        scorer: str | None = None,
        limit: int = 10,
    ) -> Answer:
        """Rollouts with a message or tool call that matches the words, best first; with `prompts`, prompts whose messages match.

        The arguments and columns are those of `rollhouse.queries.search.search` and `search_prompts`. Raises ConfigError for a filter beside
        `prompts`, QueryError for a `where` that is not a condition.
        """
        at = at or self.at
        filters = {"run": run, "environment": environment, "status": status, "where": where, "at": at}
        if not prompts:
            return Answer(searching.search(self, text, **filters, scorer=scorer, limit=limit))
        given = [name for name, value in filters.items() if value]
        if given:
            raise ConfigError(f"A search of prompts takes no filter, and {given[0]} is one.", "Leave the filters out.")
        return Answer(searching.search_prompts(self, text, scorer=scorer, limit=limit))

    def nearest(self, column: str, like: str | Sequence[float], **filters: Any) -> Answer:
        """Rollouts whose embedding is nearest to a vector, nearest first; see `rollhouse.queries.search.nearest`.

        Args:
            column: Name of the embedding column.
            like: The vector, or the id of a rollout whose embedding is taken.
        """
        vector = searching.vector_of(self, column, like) if isinstance(like, str) else like
        filters.setdefault("at", self.at)
        return Answer(searching.nearest(self, column, vector, **filters))
