"""The server from start to end: what `rollhouse serve` does."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import ConfigError, EngineError, WriteConflict, one_line
from ..base.event_loop import run_blocking
from ..base.packages import require
from ..base.web import is_loopback, own_names
from ..policies.adapter_folder import NamedAdapter, adapter_rank, refuse_other_base
from ..policies.config import VllmArguments
from ..policies.engines.base import EngineGone
from ..policies.engines.vllm_adapter import adapter_options
from ..policies.models import check_model_folder, model_folder
from ..policies.opening import check_engine, model_hash, open_policy
from ..policies.token_policy import TokenPolicy
from ..policies.types import Policy
from ..store.journal import has_journal
from ..store.lance_store import LanceStore
from ..store.run_settings import refuse_other_config, run_payload
from ..store.runs import Run, start_run
from .config import ServeConfig, ServedPolicy, ServerSettings

_SHUTDOWN_S = 5.0
_LEASE_S = 30.0


@dataclass(frozen=True)
class Listening:
    """A running server. `stop()` ends it, from any thread.

    Attributes:
        open: Number of rollouts that an earlier server of the run left open.
        keeps_calls: Whether the calls of open rollouts survive the end of the server.
    """

    url: str
    run_id: str
    model: str
    open: int
    keeps_calls: bool
    stop: Callable[[], object]


OnReady = Callable[[Listening], None]


def with_served_name(config: ServeConfig) -> ServeConfig:
    """The configuration in which clients see the model under the name that the user gave, not its folder."""
    named = config.server.served_name or config.policy.model_name
    return config.model_copy(update={"server": config.server.model_copy(update={"served_name": named})})


def run_server(
    store: LanceStore, config: ServeConfig, on_ready: OnReady | None = None, adapters: Sequence[NamedAdapter] = ()
) -> dict[str, Any]:
    """Serves until SIGINT or SIGTERM and returns a summary. An existing run with the same configuration is continued.

    Args:
        config: The model is a folder or a name on the hub for vllm and torch.
        adapters: What the names of `config.policy.adapters` stand for.
        on_ready: Called when the server accepts requests.

    Raises ConfigError for a wrong configuration, a port in use or an address that needs a key, EngineGone when the engine has ended.
    """
    refuse_unservable(config)
    for adapter in adapters:
        refuse_other_base(adapter, check_model_folder(model_folder(str(config.policy.model_name))))
    hashes = {adapter.name: adapter.policy_id for adapter in adapters} or None
    payload = run_payload(config, serve=True, model_hash=model_hash(config.policy), adapter_hashes=hashes)
    if config.run is not None:
        refuse_other_config(store, config.run, ServeConfig, payload)
    server = config.server
    with contextlib.ExitStack() as stack:
        # Bound before the model is loaded, which may take minutes.
        listener = stack.enter_context(bind(server.host, server.port, api_key_of(server)))
        policy = stack.enter_context(open_policy(with_room(config.policy, adapters)))
        policies = {None: policy} | {adapter.name: adapted(policy, adapter) for adapter in adapters}
        run = stack.enter_context(start_run(store, "collect", config.run, payload))
        summary = run_blocking(serve_policy(store, run, policies, config, listener, on_ready))
        run.finish(summary)
    return summary


def refuse_unservable(config: ServeConfig) -> None:
    """Raises ConfigError for an engine that cannot be served, or a wrong API key."""
    require("aiohttp")
    api_key_of(config.server)
    check_engine(config.policy)
    if config.policy.engine == "scripted":
        raise ConfigError("The scripted engine cannot be served.", "Use --engine vllm, torch or openai:URL.")
    if config.policy.adapters and config.policy.engine != "vllm":
        raise ConfigError(
            f"The engine {config.policy.engine} cannot serve adapters beside its model.",
            "Use --engine vllm, or serve the merged checkpoint: --model RUN/step_N without --adapter.",
        )
    if named_model(config) in config.policy.adapters:
        raise ConfigError(f"The model and an adapter are both named {named_model(config)}.", "Name the model with --served-name.")  # fmt: skip


def named_model(config: ServeConfig) -> str | None:
    """The model's name for clients, where the configuration gives one."""
    return config.server.served_name or config.policy.model_name


def with_room(policy: ServedPolicy, adapters: Sequence[NamedAdapter]) -> ServedPolicy:
    """The settings of an engine that takes these adapters at once. Raises ConfigError for a rank that no engine takes."""
    if not adapters:
        return policy
    ranks = {adapter.name: adapter_rank(adapter.folder) for adapter in adapters}
    largest = max(ranks, key=lambda name: ranks[name])
    options = adapter_options(ranks[largest], len(adapters))
    if options is None:
        raise ConfigError(f"vLLM takes no adapter of rank {ranks[largest]}, which {largest} has.", "Serve the merged checkpoint with --model.")  # fmt: skip
    arguments = VllmArguments.model_validate(options | policy.generation.vllm.arguments)
    return policy.model_copy(update={"generation": policy.generation.model_copy(update={"vllm": arguments})})


def adapted(policy: Policy, adapter: NamedAdapter) -> TokenPolicy:
    """The policy's model through an adapter. Raises EngineError where the engine does not take it."""
    assert isinstance(policy, TokenPolicy)
    engine: Any = policy.token_engine
    return TokenPolicy(engine.adapted(adapter.folder), policy.chat, adapter.policy_id)


def api_key_of(server: ServerSettings) -> str | None:
    """The key that clients must send; None without one. Raises ConfigError for a key that is empty, missing or named twice."""
    if server.api_key_env is None:
        key = server.api_key
    elif server.api_key is not None:
        raise ConfigError("--api-key and --api-key-env both name a key.", "Use one of them.")
    else:
        key = os.environ.get(server.api_key_env)
        if not key:
            raise ConfigError(f"The environment variable {server.api_key_env} is not set.", "Set it to the key.")
    if key is not None and not key.strip():
        raise ConfigError("The API key is empty.", "Set it, or leave --api-key and --api-key-env out.")
    return key


def bind(host: str, port: int, api_key: str | None) -> socket.socket:
    """A socket bound to the address, not listening yet. Raises ConfigError for a port in use, and for a public address without a key."""
    if not api_key and not is_loopback(host):
        raise ConfigError(
            f"Other machines can reach {host}, and the server has no API key.",
            "Set a key with --api-key-env VAR, or serve on 127.0.0.1.",
        )
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"Cannot resolve the host {host}.", "Name an address of this machine with --host.") from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot bind {host}:{port}: {error.strerror}.", "Use another --port; 0 takes a free port."
        ) from error
    return listener


async def serve_policy(
    store: LanceStore,
    run: Run,
    policies: Mapping[str | None, Policy],
    config: ServeConfig,
    listener: socket.socket,
    on_ready: OnReady | None = None,
) -> dict[str, Any]:
    """Serves policies on a bound socket until it is stopped; open rollouts then stay in the journal.

    Args:
        policies: By the name that clients choose them by; None is the model itself.
    """
    from aiohttp import web

    from .app import Api, make_app
    from .backends import backend_of
    from .connections import Acceptor
    from .conversations import Conversations
    from .recorder import Recorder
    from .service import Service

    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    gone: list[EngineGone] = []

    def on_engine_gone(error: EngineGone) -> None:
        gone.append(error)
        stop.set()

    server = config.server
    recorder = Recorder(store, run, policies, config.environment)
    beside = {name: backend_of(policy) for name, policy in policies.items() if name is not None}
    policy = policies[None]
    service = Service(backend_of(policy), recorder, server.lenient, adapters=beside)
    named = config.policy.model_name if policy.engine != "openai" else None
    key = api_key_of(server)
    model = server.served_name or named or policy.policy_id
    names = None if key else own_names([server.host])
    conversations = Conversations(recorder.open) if server.id_per_conversation else None
    api = Api(
        service,
        model,
        key,
        server.require_id,
        on_engine_gone,
        names,
        id_fields=server.id_fields,
        conversations=conversations,
    )
    runner = web.AppRunner(
        make_app(api),
        access_log=None,  # it would contain ids and addresses of clients
        shutdown_timeout=_SHUTDOWN_S,
        handler_cancellation=True,  # the client is gone: the engine need not go on
    )
    watch = accepting = None
    try:
        await recorder.resume()
        left_open = len(recorder.open)
        await runner.setup()
        connections = Acceptor(runner, listener)
        _listen(connections, listener)
        accepting = loop.create_task(connections.run())
        watch = loop.create_task(_watch(recorder, run, server.idle_limit_s))
        with _stop_signals(loop, stop):
            if on_ready is not None:
                keeps = has_journal(store)
                request_stop = lambda: loop.call_soon_threadsafe(stop.set)  # noqa: E731
                on_ready(Listening(_url(listener), run.run_id, model, left_open, keeps, request_stop))
            await _first_of(stop, watch)
    finally:
        tasks = [task for task in (accepting, watch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.cleanup()
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


def _listen(connections: Any, listener: socket.socket) -> None:
    try:
        connections.listen()
    except OSError as error:  # another server bound the port too, and listened first
        raise ConfigError(f"Cannot bind {_url(listener)}: {error.strerror}.", "Use another --port; 0 takes a free port.") from error  # fmt: skip


async def _first_of(stop: asyncio.Event, watch: asyncio.Task) -> None:
    """Waits for the stop event; an error of the watch (the run was taken over) ends the server."""
    stopped = asyncio.get_running_loop().create_task(stop.wait())
    await asyncio.wait({stopped, watch}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if watch.done() and not stop.is_set():
        error = watch.exception()
        raise error if error is not None else EngineError("The server's watch ended.", "Report this as a bug.")


async def _watch(recorder: Any, run: Run, idle_limit_s: float | None) -> None:
    """Ends idle rollouts, and renews the run's lease. Raises WriteConflict when the run was taken over; other failures are warned of."""
    pause = _LEASE_S if idle_limit_s is None else min(_LEASE_S, max(0.05, idle_limit_s / 4))
    since_check = 0.0
    while True:
        await asyncio.sleep(pause)
        since_check += pause
        try:
            if idle_limit_s is not None:
                await recorder.expire(idle_limit_s)
            if since_check >= _LEASE_S:
                since_check = 0.0
                await asyncio.to_thread(run.lease.check)
        except WriteConflict:
            raise
        except (
            Exception
        ) as error:  # a full disk, or no file to open: it may pass, and every commit looks at the lease again
            print(f"warning: the run's lease could not be checked: {one_line(error)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stop_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event):
    """SIGINT and SIGTERM stop the server in order, if this is the main thread."""
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


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
