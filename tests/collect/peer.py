"""A real HTTP server on loopback that answers chat requests as a test configures it, failures included."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Peer:
    """Its requests, and its answers.

    Attributes:
        answers: Oldest first; the last is repeated.
        requests: Bodies of the chat requests, in order of arrival; `at` has their times on the server's clock.
        most: Most requests answered at one time.
        cards: What /v1/models lists; None answers 404 there.
    """

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = []
        self.requests: list[dict[str, Any]] = []
        self.at: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.most = self._now = 0
        self.cards: list[dict[str, Any]] | None = [{"id": "served", "object": "model", "owned_by": "x"}]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            self.requests.append(await request.json())
            self.at.append(asyncio.get_running_loop().time())
            self.headers.append(dict(request.headers))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return await answer(request)
        finally:
            self._now -= 1

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self.cards}) if self.cards is not None else web.Response(status=404)  # fmt: skip


@contextmanager
def running(count: int = 1) -> Iterator[list[Peer]]:
    """So many peers, served by a thread with an event loop of its own."""
    peers = [Peer() for _ in range(count)]
    loop, runners = asyncio.new_event_loop(), []

    async def start() -> None:
        for peer in peers:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", peer.chat)
            app.router.add_get("/v1/models", peer.models)
            runners.append(web.AppRunner(app, shutdown_timeout=0))
            await runners[-1].setup()
            site = web.TCPSite(runners[-1], "127.0.0.1", 0)
            await site.start()
            peer.url = f"http://127.0.0.1:{runners[-1].addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield peers
    finally:
        for runner in runners:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def reply(message: dict[str, Any], reason: str = "stop", choice: dict[str, Any] | None = None, **reply: Any) -> Answer:
    """A completion; `choice` and `reply` are further fields of those."""
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "served",
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, **(choice or {})}
        ],
        **reply,
    }
    return fails(200, body)


def fails(status: int, body: Any = "", **headers: str) -> Answer:
    """Any status and body; a body that is no text is sent as JSON."""

    async def answer(request: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers={name.replace("_", "-"): value for name, value in headers.items()})  # fmt: skip

    return answer


async def resets(request: web.Request) -> web.StreamResponse:
    """Breaks the connection off without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """Closes in the middle of the body."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


def sleeps(seconds: float, then: Answer) -> Answer:
    """Answers later."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await then(request)

    return answer
