"""The run's engine as a server for its harnesses: `serve`'s routes on loopback, one key per rollout, on a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from ..base.errors import ConfigError, EngineError
from ..policies.engines.base import EngineGone, EngineRefused, PromptTooLong
from ..policies.types import Policy
from ..serve.app import ROLLOUT, Api, Handler, make_app
from ..serve.backends import backend_of
from ..serve.connections import Acceptor
from ..serve.errors import refused
from ..serve.service import Service
from ..store.task import Score
from .client import Access
from .live import LiveRecorder, LiveRollout

T = TypeVar("T")
_HOST = "127.0.0.1"
_START_S, _END_S = 60.0, 20.0
_SHUTDOWN_S = 1.0
_DRAIN_S, _PAUSE_S = 0.5, 0.01


class Gateway:
    """A server over a policy, from `with` to its end. Its methods can be awaited on any event loop.

    Attributes:
        gone: The error with which the engine has ended; None while it has not.
    """

    def __init__(self, policy: Policy, port: int = 0, shared_key: str | None = None, model: str = "policy") -> None:
        """`port` 0 takes a free one; `shared_key` is good for all rollouts."""
        self.gone: EngineGone | None = None
        self._policy, self._model, self._port = policy, model, port
        self._recorder = LiveRecorder(shared_key)
        self._url = ""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="rollhouse-gateway", daemon=True)

    def __enter__(self) -> "Gateway":
        self._thread.start()
        self._ready.wait(_START_S)
        if isinstance(self._failure, OSError):
            raise ConfigError(f"Cannot bind {_HOST}:{self._port}: {self._failure.strerror}.", "Set another port of the harness; 0 takes a free one.")  # fmt: skip
        if not self._url:
            raise EngineError("The gateway of the run did not start.", "Try again when the machine is less busy.") from self._failure  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_END_S)

    async def begin(self, live: LiveRollout) -> Access:
        """Takes calls for a rollout from now on."""
        await self._there(_call(self._recorder.begin, live))
        return Access(f"{self._url}/rollouts/{live.name}", live.key, self._model, [dict(tool) for tool in live.slot.task.tools])  # fmt: skip

    async def end(self, live: LiveRollout) -> None:
        """Takes none from now on. Calls in flight of a program that was killed are recorded as far as they were sampled."""
        await self._there(self._drained(live))
        await self._there(_call(self._recorder.end, live))

    async def _drained(self, live: LiveRollout) -> None:
        """Waits until the calls in flight of a program that has ended are cancelled, which its closed connections do."""
        for _ in range(int(_DRAIN_S / _PAUSE_S)):
            if not live.served.in_flight:
                break
            await asyncio.sleep(_PAUSE_S)

    async def verdict(self, live: LiveRollout) -> Score:
        """The environment's verdict. Raises what the environment raises."""
        return await self._there(live.verdict())

    async def close(self, live: LiveRollout) -> None:
        """Frees what the rollout holds."""
        await self._there(live.close())

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Work on the gateway's event loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _work(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        service = Service(backend_of(self._policy), self._recorder, forced=self._recorder.forced)
        app = make_app(Api(service, self._model, None, True, self._gone, rollout_of_key=self._recorder.name_of))
        app.middlewares.append(self._counted)
        app.router.add_post("/rollouts/{rollout}/tools/{tool}", self._tool)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S, handler_cancellation=True)
        await runner.setup()
        with socket.create_server((_HOST, self._port)) as listener:
            connections = Acceptor(runner, listener)
            connections.listen()
            accepting = asyncio.ensure_future(connections.run())
            self._url = f"http://{_HOST}:{listener.getsockname()[1]}"
            self._ready.set()
            try:
                await self._stop.wait()
            finally:
                accepting.cancel()
                await asyncio.gather(accepting, return_exceptions=True)
                await runner.cleanup()

    def _gone(self, error: EngineGone) -> None:
        self.gone = self.gone or error

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Holds back calls above the number that one rollout may have in flight, and notes why the engine refused one."""
        if ROLLOUT not in request:
            return await handler(request)
        live = self._recorder.live(request[ROLLOUT])
        async with live.places:
            try:
                return await handler(request)
            except PromptTooLong:
                live.limit = live.limit or "length"
                raise
            except EngineError as error:
                if not isinstance(error, EngineRefused):
                    live.failure = live.failure or error.message
                raise

    async def _tool(self, request: web.Request) -> web.StreamResponse:
        """`/rollouts/{id}/tools/{name}`: a call of a tool of the environment; `arguments` is JSON text."""
        arguments = (await request.json()).get("arguments")
        if not isinstance(arguments, str):
            raise refused("`arguments` must be a string: the JSON text of the tool's arguments.")
        text = await self._recorder.live(request.get(ROLLOUT)).call_tool(request.match_info["tool"], arguments)
        return web.json_response({"text": text})


async def _call(function: Any, *args: Any) -> Any:
    return function(*args)
