"""The server from start to end: what `rollhouse serve` does."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import ConfigError, EngineError
from ..collect.plan import refuse_other_config
from ..policies.chat_options import ChatOptions
from ..policies.engines.base import EngineGone
from ..policies.models import require
from ..policies.opening import check_engine, model_hash, open_policy
from ..policies.types import Policy
from ..store.journal import has_journal
from ..store.lance_store import LanceStore
from ..store.runs import Run, start_run

_SHUTDOWN_S = 5.0
_LEASE_S = 30.0


@dataclass(frozen=True)
class ServeJob:
    """What to serve, to whom, and what to record.

    Attributes:
        engine: `vllm`, `torch` or `openai:URL`.
        model: A model folder, or the name an endpoint serves.
        served_name: What clients see as the model's name; None is `model`, or the endpoint's.
        environment: Environment of the recorded rows.
        port: 0 takes a free one.
        api_key: What clients must send; kept nowhere.
        idle_limit_s: Seconds without a call after which a rollout ends as `timeout`; None waits for ever.
        require_id: Refuse calls without a rollout id instead of answering them unrecorded.
        max_model_len, tensor_parallel_size, data_parallel_size: As in `open_policy`.
    """

    engine: str
    model: str | None = None
    served_name: str | None = None
    environment: str = "served"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    idle_limit_s: float | None = None
    require_id: bool = False
    chat: ChatOptions = field(default_factory=ChatOptions)
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1


@dataclass(frozen=True)
class Listening:
    """A server that takes requests. `stop` ends it, from any thread.

    Attributes:
        open: Rollouts an earlier server of the run left open.
        keeps_calls: Whether the calls of open rollouts outlive the server.
    """

    url: str
    run_id: str
    model: str
    open: int
    keeps_calls: bool
    stop: Callable[[], object]


OnReady = Callable[[Listening], None]


def run_server(
    store: LanceStore, job: ServeJob, run_name: str | None = None, on_ready: OnReady | None = None
) -> dict[str, Any]:
    """Serves until SIGINT or SIGTERM and returns what was done. A run that exists is continued if its configuration is this one.

    Raises ConfigError for a wrong job, a taken port or an address that needs a key, EngineGone when the engine has ended.
    """
    require("aiohttp")
    check_engine(job.engine, job.model)
    if job.engine == "scripted":
        raise ConfigError(
            "The scripted policy plays tasks and answers nobody.", "Use --engine vllm, torch or openai:URL."
        )
    if job.idle_limit_s is not None and job.idle_limit_s <= 0:
        raise ConfigError(f"--idle-limit is {job.idle_limit_s:g}.", "It is a number of seconds above 0.")
    config = run_config(job)
    if run_name is not None:
        refuse_other_config(store, run_name, config)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(job.host, job.port, job.api_key))  # before a model is loaded in vain
        policy = stack.enter_context(
            open_policy(
                job.engine,
                job.model,
                max_model_len=job.max_model_len,
                chat=job.chat,
                tensor_parallel_size=job.tensor_parallel_size,
                data_parallel_size=job.data_parallel_size,
            )
        )
        run = stack.enter_context(start_run(store, "collect", run_name, config))
        summary = asyncio.run(serve_policy(store, run, policy, job, listener, on_ready))
        run.finish(summary)
    return summary


def run_config(job: ServeJob) -> dict[str, Any]:
    """What the run is started with: what decides what is recorded. The key is not in it."""
    return {
        "serve": True,
        "environment": job.environment,
        "engine": job.engine,
        "model": job.model,
        "model_hash": model_hash(job.engine, job.model),
        "max_model_len": job.max_model_len,
        "chat": job.chat.config(),
    }


def bind(host: str, port: int, api_key: str | None) -> socket.socket:
    """A socket on the address, not listening yet. Raises ConfigError for a taken port, and for an address others reach without a key."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}.", "It is a number from 0 (any free one) to 65535.")
    if api_key is not None and not api_key.strip():
        raise ConfigError("The API key is empty.", "Set it, or leave --api-key and --api-key-env out.")
    if not api_key and not _is_loopback(host):
        raise ConfigError(
            f"On {host} others could reach the server, and it has no API key.",
            "Give it one with --api-key-env VAR, or serve on 127.0.0.1.",
        )
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"There is no address {host}.", "Name one of this machine with --host.") from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Port {port} of {host} cannot be had: {error.strerror}.", "Use another --port; 0 takes a free one."
        ) from error
    return listener


async def serve_policy(
    store: LanceStore, run: Run, policy: Policy, job: ServeJob, listener: socket.socket, on_ready: OnReady | None = None
) -> dict[str, Any]:
    """Serves a policy on a bound socket until it is told to stop; open rollouts then stay in the journal."""
    from aiohttp import web

    from .app import Api, make_app
    from .backends import backend_of
    from .recorder import Recorder
    from .service import Service

    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    gone: list[EngineGone] = []

    def on_engine_gone(error: EngineGone) -> None:
        gone.append(error)
        stop.set()

    recorder = Recorder(store, run, policy, job.environment)
    service = Service(backend_of(policy), recorder)
    model = job.served_name or (job.model if policy.engine != "openai" else None) or policy.policy_id
    runner = web.AppRunner(
        make_app(Api(service, model, job.api_key, job.require_id, on_engine_gone)),
        access_log=None,  # it would hold the ids and addresses of clients
        shutdown_timeout=_SHUTDOWN_S,
        handler_cancellation=True,  # nobody waits for the answer: the engine need not go on
    )
    watch = None
    try:
        await recorder.resume()
        left_open = len(recorder.open)
        await runner.setup()
        await _listen(web.SockSite(runner, listener), listener)
        watch = loop.create_task(_watch(recorder, run, job.idle_limit_s))
        with _stop_signals(loop, stop):
            if on_ready is not None:
                keeps = has_journal(store)
                ask_to_stop = lambda: loop.call_soon_threadsafe(stop.set)  # noqa: E731
                on_ready(Listening(_url(listener), run.run_id, model, left_open, keeps, ask_to_stop))
            await _first_of(stop, watch)
    finally:
        await runner.cleanup()
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await recorder.close()
    if gone:
        raise gone[0]
    return _summary(run, service, recorder)


def _summary(run: Run, service: Any, recorder: Any) -> dict[str, Any]:
    finished = dict(recorder.statuses)
    return {
        "run_id": run.run_id,
        "answered": service.answered,
        "recorded": recorder.calls,
        "finished": sum(finished.values()),
        "statuses": finished,
        "open": len(recorder.open),
    }


async def _listen(site: Any, listener: socket.socket) -> None:
    try:
        await site.start()
    except OSError as error:  # another server bound the port, too, and was first to listen
        raise ConfigError(f"{_url(listener)} cannot be had: {error.strerror}.", "Use another --port; 0 takes a free one.") from error  # fmt: skip


async def _first_of(stop: asyncio.Event, watch: asyncio.Task) -> None:
    """Until told to stop; what the watch ran into (a run taken over) ends the server."""
    told = asyncio.get_running_loop().create_task(stop.wait())
    await asyncio.wait({told, watch}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if watch.done() and not stop.is_set():
        error = watch.exception()
        raise error if error is not None else EngineError("The server's watch ended.", "Report this as a bug.")


async def _watch(recorder: Any, run: Run, idle_limit_s: float | None) -> None:
    """Ends idle rollouts, and shows that the run is alive."""
    pause = _LEASE_S if idle_limit_s is None else min(_LEASE_S, max(0.05, idle_limit_s / 4))
    since_check = 0.0
    while True:
        await asyncio.sleep(pause)
        if idle_limit_s is not None:
            await recorder.expire(idle_limit_s)
        since_check += pause
        if since_check >= _LEASE_S:
            since_check = 0.0
            await asyncio.to_thread(run.lease.check)


@contextlib.contextmanager
def _stop_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event):
    """SIGINT and SIGTERM end the server in order, where this is the thread that gets them."""
    mine = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if mine else ()
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
