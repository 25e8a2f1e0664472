"""The servers that benchmarks/gateway.py compares, over an engine that answers at once. Prints the port.

`GET /memory` is the process's bytes, `GET /cpu` its CPU time in seconds.

python benchmarks/gateway_server.py gateway|bare [STORE]
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines.base import SampledTokens
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.serve.app import Api, make_app
from rollhouse.serve.backends import TokenBackend
from rollhouse.serve.recorder import Recorder
from rollhouse.serve.service import Service
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import VersionSpan
from rollhouse.store.runs import start_run
from rollhouse.train.tiny import base_policy

TURN = (
    '<tool_call>\n{"name": "calendar_search_events", "arguments": {"query": "campaign list", "page": 1}}\n</tool_call>'
)


class InstantEngine:
    """A TokenEngine whose every turn is the same call."""

    kind = "plugin"
    version = 0
    max_model_len = 1 << 20

    def __init__(self, chat: ChatFormat) -> None:
        ids: Any = chat.tokenizer(TURN, add_special_tokens=False)["input_ids"]
        self._ids = [*ids, chat.stop_token_ids[0]]

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> SampledTokens:
        """See TokenEngine."""
        return SampledTokens(list(self._ids), [-0.5] * len(self._ids), (VersionSpan(0, 0),), "stop")


async def memory(_: web.Request) -> web.Response:
    """Bytes that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return web.json_response(pages * 4096)


async def cpu(_: web.Request) -> web.Response:
    """Seconds of CPU time."""
    return web.json_response(time.process_time())


def bare() -> web.Application:
    """Parses a body, and answers as the gateway does, always the same."""
    call = {"id": "call_0", "type": "function", "function": {"name": "calendar_search_events", "arguments": '{"query": "campaign list", "page": 1}'}}  # fmt: skip
    message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}]
    usage = {"prompt_tokens": 1000, "completion_tokens": 40, "total_tokens": 1040}
    reply = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}  # fmt: skip

    async def chat(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        return web.json_response({**reply, "model": body["model"]})

    async def finish(request: web.Request) -> web.Response:
        return web.json_response(json.loads(await request.read()))

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/rollouts/{rollout}/v1/chat/completions", chat)
    app.router.add_post("/rollouts/{rollout}/finish", finish)
    return app


async def serve(app: web.Application) -> None:
    """Serves for ever on a free port of this machine."""
    app.router.add_get("/memory", memory)
    app.router.add_get("/cpu", cpu)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Starts the server that the command line names."""
    if sys.argv[1] == "bare":
        asyncio.run(serve(bare()))
        return
    chat = ChatFormat.of(base_policy())
    engine: Any = InstantEngine(chat)
    policy = TokenPolicy(engine, chat, "instant")
    store = LanceStore.create(Path(sys.argv[2]))
    with start_run(store, "collect", None) as run:
        recorder = Recorder(store, run, {None: policy}, "served")
        api = Api(Service(TokenBackend(policy), recorder), "m", None, False, lambda error: None)
        asyncio.run(serve(make_app(api)))


if __name__ == "__main__":
    main()
