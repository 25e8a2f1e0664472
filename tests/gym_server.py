"""A resources server over HTTP that serves our workplace environment by NeMo Gym's rules: cookie sessions, one address a tool, a verifier."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from aiohttp import web
from rollhouse.environments.tasks_file import task_from_row
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace.toolbox import call_tool
from rollhouse.store.messages import ToolCall

_NEEDED = {"id": int, "ground_truth": list, "category": str, "environment_name": str}


class GymServer:
    """The server's state.

    Attributes:
        sessions: Offices by cookie.
        broken: Address → statuses to answer with, first come first used, before it works; or seconds to wait under `slow`.
        verdict: What `/verify` adds to its answer.
    """

    def __init__(self, tables: Path) -> None:
        self.environment = WorkplaceEnvironment(tables)
        self.sessions: dict[str, Any] = {}
        self.broken: dict[str, list[int]] = {}
        self.slow: dict[str, float] = {}
        self.verdict: dict[str, Any] = {"n_calls": 0}
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Any POST."""
        address = request.match_info["address"]
        if self.broken.get(address):
            return web.Response(status=self.broken[address].pop(0), text="out of order")
        await asyncio.sleep(self.slow.get(address, 0))
        body = await request.json() if request.can_read_body else None
        if address == "seed_session":
            answer = web.json_response({})
            cookie = uuid4().hex
            self.sessions[cookie] = self.environment.office.copy()
            answer.set_cookie("session", cookie)
            return answer
        if address == "verify":
            return self._verify(body or {})
        office = self.sessions.get(request.cookies.get("session", ""))
        if office is None:
            return web.json_response({"detail": "Session not initialized. Please call seed_session first."}, status=400)
        output = call_tool(office, address, body)
        status = 200 if isinstance(body, dict) else 422
        return web.Response(text=output.text, content_type="application/json", status=status)

    def _verify(self, row: dict[str, Any]) -> web.Response:
        missing = [name for name, kind in _NEEDED.items() if not isinstance(row.get(name), kind)]
        if missing:
            return web.json_response({"detail": missing}, status=422)
        items = row["response"]["output"]
        calls = [ToolCall("", item["name"], item["arguments"]) for item in items if item["type"] == "function_call"]
        score = self.environment.score(task_from_row(row, "workplace"), calls)
        answer = {**row, "reward": score.reward, **self.verdict, "n_calls": len(calls)}
        return web.Response(text=json.dumps(answer), content_type="application/json")


@contextmanager
def serving(tables: Path) -> Iterator[GymServer]:
    """A server on a free port of 127.0.0.1, in a thread of its own."""
    server = GymServer(tables)
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/{address}", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    ready.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
