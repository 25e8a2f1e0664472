"""An agent server that speaks NeMo Gym's protocol plays the rollouts: `/run` with the task's row, its model's calls with the row's metadata."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from rollhouse.policies.token_policy import TokenPolicy

from .test_playing import play

KEY = "a key that the agent server was started with"


class AgentServer:
    """An agent with one model call, as NeMo Gym's simple agent makes it: the row's parameters, whole, to `/v1/responses` of its model."""

    def __init__(self, model_url: str) -> None:
        self.model_url, self.rows, self.fail = model_url, 0, False
        self.url = ""

    async def run(self, request: web.Request) -> web.Response:
        """`/run`."""
        row = await request.json()
        self.rows += 1
        if self.fail:
            return web.json_response({"detail": "the verifier is out of order"}, status=500)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            ClientSession() as session,
            session.post(f"{self.model_url}/v1/responses", json=row["responses_create_params"], headers=headers) as got,
        ):
            assert got.status == 200, await got.text()
            response = await got.json()
        return web.json_response({**row, "response": response, "reward": 0.5, "n_items": len(response["output"])})


@pytest.fixture
def agent_server() -> Iterator[tuple[AgentServer, int]]:
    """A running server, and the port that its model is to have."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server, loop, ready, stop = AgentServer(f"http://127.0.0.1:{port}"), asyncio.new_event_loop(), threading.Event(), asyncio.Event()  # fmt: skip

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/run", server.run)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(60)
    yield server, port
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


@pytest.mark.system
def test_an_agent_server_plays(tmp_path: Path, torch_policy: TokenPolicy, agent_server: Any, monkeypatch: Any) -> None:
    server, port = agent_server
    monkeypatch.setenv("AGENT_KEY", KEY)
    harness = {"name": "nemo-gym", "port": port, "key_env": "AGENT_KEY", "options": {"url": server.url}}
    rows = play(tmp_path / "store", torch_policy, harness, repeats=3)
    assert server.rows == 3
    for row in rows:
        assert (row["reward"], row["scorer"], row["n_turns"], row["error_type"]) == (0.5, "nemo-gym", 1, None)
        assert [part["name"] for part in row["reward_components"]] == ["n_items"]
        assert row["prefix_ok"] and row["n_sampled_tokens"] > 0 and row["trainable"]
    assert len({row["rollout_id"] for row in rows}) == 3
    server.fail = True
    (row,) = play(tmp_path / "other", torch_policy, harness, repeats=1)
    assert (row["status"], row["error_type"], row["reward"]) == ("error", "harness", None)
    assert "the verifier is out of order" in row["error_message"] and json.loads(row["extra"])
