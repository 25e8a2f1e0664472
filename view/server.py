"""The viewer's server: static files, and JSON about stores."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from aiohttp import web

from ..base.errors import ConfigError, QueryError, RollhouseError, StoreNotFound
from ..queries.sql_store import SqlStore
from . import compare, datasets, group, inflight, labels, lanes, rollout, rollouts, runs, tokens
from .query import Query, one_of
from .reader import Reader, plain
from .security import guard

SQL_ROWS = 1_000
_SQL_TIMEOUT_S, _SQL_MEMORY = 30.0, "2GB"
_CELL = 4_000  # characters of a cell of an answer that are sent
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_STATIC = ("index.html", "app.js", "app.css", "icon.svg")

_READS = re.compile(r"(select|with|from|values)\b|\(", re.IGNORECASE)

Answer = Callable[[Reader, Query, str], Any]


@dataclass
class Site:
    """The stores of the server.

    Attributes:
        readers: The stores by their name in URLs, the first one shown first.
        read_only: Whether writing labels is disabled.
    """

    readers: dict[str, Reader] = field(default_factory=dict)
    read_only: bool = True

    def reader(self, name: str) -> Reader:
        """The store of that name. Raises StoreNotFound."""
        if name not in self.readers:
            raise StoreNotFound(f"There is no store {name!r} in this viewer.", f"It shows {', '.join(self.readers)}.")
        return self.readers[name]


# Path below /api/STORE/ → its handler, which gets the rest of the path.
ROUTES: dict[str, Answer] = {
    "stamp": lambda reader, query, rest: {"stamp": reader.stamp()},
    "runs": lambda reader, query, rest: runs.listed(reader),
    "run": lambda reader, query, rest: runs.one(reader, rest),
    "curves": lambda reader, query, rest: runs.curves(reader, query.get("run", ()), query.get("name", ())),
    "scatter": lambda reader, query, rest: runs.scatter(reader, rest),
    "lanes": lambda reader, query, rest: lanes.lanes(reader, rest, one_of(query, "step")),
    "in-flight": lambda reader, query, rest: inflight.in_flight(reader, rest),
    "rollouts": lambda reader, query, rest: rollouts.page(reader, query),
    "facets": lambda reader, query, rest: rollouts.facets(reader, query),
    "near": lambda reader, query, rest: rollouts.ids(reader, query, rest),
    "rollout": lambda reader, query, rest: rollout.details(reader, rest),
    "lineage": lambda reader, query, rest: rollout.lineage(reader, rest),
    "compare": lambda reader, query, rest: compare.compare(reader, query),
    "datasets": lambda reader, query, rest: datasets.listed(reader),
    "dataset": lambda reader, query, rest: datasets.one(reader, rest, query),
    "dataset-diff": lambda reader, query, rest: datasets.difference(reader, rest, one_of(query, "with")),
    "group": lambda reader, query, rest: group.group(reader, rest),
    "tokens": lambda reader, query, rest: _tokens(reader, query, rest),
    "sql": lambda reader, query, rest: _sql(reader, one_of(query, "query")),
}


def make_app(
    stores: Mapping[str, SqlStore], *, key: str | None = None, hosts: Sequence[str] = (), read_only: bool = True
) -> web.Application:
    """The application over one or more stores, by their name in URLs.

    Args:
        key: The key of readers; None if only this machine reaches the server.
        hosts: Names of the server besides `localhost` and the machine's.
        read_only: Whether labels cannot be written. Those of a store opened in the past never can.
    """
    site = Site({name: Reader(name, store) for name, store in stores.items()}, read_only)
    app = web.Application(middlewares=[guard(key, hosts)], client_max_size=1 << 20)
    app[SITE] = site
    app.router.add_get("/api/stores", _stores)
    app.router.add_post("/api/{store}/label", _label)
    app.router.add_get("/api/{store}/{what}", _answer)
    app.router.add_get("/api/{store}/{what}/{rest:.+}", _answer)
    app.router.add_get("/", _static)
    app.router.add_get("/{file}", _static)

    async def close(_: web.Application) -> None:
        for reader in site.readers.values():
            reader.close()

    app.on_cleanup.append(close)
    return app


SITE: web.AppKey[Site] = web.AppKey("site", Site)


async def _stores(request: web.Request) -> web.Response:
    site = request.app[SITE]
    listed = [
        {
            "name": name,
            "uri": reader.store.uri,
            "at": reader.store.at,
            "labels": not site.read_only and reader.store.at is None,
        }
        for name, reader in site.readers.items()
    ]
    return web.json_response({"stores": listed})


async def _label(request: web.Request) -> web.StreamResponse:
    site = request.app[SITE]

    async def written() -> Any:
        if request.content_type != "application/json":  # a form of another site cannot send it
            raise web.HTTPUnsupportedMediaType(reason="The body is not JSON")
        reader = site.reader(request.match_info["store"])
        if site.read_only or reader.store.at is not None:
            raise web.HTTPForbidden(reason="This viewer writes no labels")
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            raise ConfigError("The body is not JSON.", "Send an object.") from None
        return await asyncio.to_thread(labels.write, reader, body)

    return await _answered(request, written)


async def _answer(request: web.Request) -> web.StreamResponse:
    query = {name: request.query.getall(name) for name in request.query}

    async def found() -> Any:
        reader = request.app[SITE].reader(request.match_info["store"])
        answer = ROUTES.get(request.match_info["what"])
        if answer is None:
            raise web.HTTPNotFound(reason="There is no such page")
        return await asyncio.to_thread(answer, reader, query, request.match_info.get("rest", ""))

    return await _answered(request, found)


async def _answered(request: web.Request, answer: Callable[[], Awaitable[Any]]) -> web.StreamResponse:
    """The result as JSON, or the error as its two sentences."""
    started = time.perf_counter()
    try:
        found = await answer()
    except RollhouseError as error:
        status = 404 if isinstance(error, StoreNotFound) else 400
        return web.json_response({"error": error.message, "fix": error.fix}, status=status)
    except web.HTTPException:
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("%s", request.path)
        return web.json_response(
            {"error": f"{type(error).__name__}: {error}", "fix": "The server's output shows where."}, status=500
        )
    body = await asyncio.to_thread(
        lambda: json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    )
    took = f"answer;dur={(time.perf_counter() - started) * 1000:.1f}"
    response = web.Response(
        body=body, content_type="application/json", charset="utf-8", headers={"Server-Timing": took}
    )
    if len(body) > 10_000:
        response.enable_compression()
    return response


async def _static(request: web.Request) -> web.StreamResponse:
    name = request.match_info.get("file", "index.html")
    if name not in _STATIC:
        raise web.HTTPNotFound(reason="There is no such page")
    data = await asyncio.to_thread((resources.files("rollhouse.view") / "static" / name).read_bytes)
    kind = _TYPES[name[name.rindex(".") :]]
    response = web.Response(body=data, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})
    if len(data) > 10_000:
        response.enable_compression()
    return response


def _tokens(reader: Reader, query: Query, rollout_id: str) -> dict[str, Any]:
    step = one_of(query, "step")
    return tokens.strip(reader, rollout_id, one_of(query, "of") or None, int(step) if step.isdigit() else None)


def _sql(reader: Reader, text: str) -> dict[str, Any]:
    """The first rows of a user's query, with the checks and limits of `rollhouse sql`, in a separate process."""
    text = text.strip().rstrip(";").rstrip()
    if not text:
        raise QueryError("The query is empty.", "Write one SELECT.")
    # Only reading statements can be limited; for others `rollhouse sql` raises the error. On its own line, so that a comment does not extend further.
    bounded = f"FROM ({text}\n) LIMIT {SQL_ROWS + 1}" if _READS.match(text) else text
    started = time.perf_counter()
    table = reader.store.sql(bounded, memory=_SQL_MEMORY, timeout_s=_SQL_TIMEOUT_S, in_child=True).arrow()
    rows = [[_cell(value) for value in row.values()] for row in plain(table.slice(0, SQL_ROWS).to_pylist())]
    kinds = [str(kind) for kind in table.schema.types]
    return {
        "columns": table.column_names,
        "types": kinds,
        "rows": rows,
        "more": table.num_rows > SQL_ROWS,
        "seconds": time.perf_counter() - started,
    }


def _cell(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    return value[:_CELL] + "…" if isinstance(value, str) and len(value) > _CELL else value
