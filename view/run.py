"""Runs the viewer's server in this process until it is interrupted."""

import asyncio
import contextlib
import ctypes
import os
import secrets
import signal
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from ..base.errors import ConfigError, MissingExtra
from ..base.packages import install_command
from ..queries.sql_store import SqlStore
from ..store.lance_store import store_location
from .notes import leave

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8  # of malloc.h


def serve(
    locations: Sequence[str | None],
    host: str,
    port: int,
    at: str | None,
    *,
    opens: bool,
    read_only: bool,
    announce: Callable[[str], None],
) -> None:
    """Serves the stores; returns at Ctrl-C.

    Args:
        locations: Folders or URIs; None is $ROLLHOUSE_STORE or ./rollouts.
        host, port: Where to listen; port 0 takes a free one. A host that other machines reach gets a key, which is part of the announced address.
        at: The snapshot or time that is shown; None is now.
        opens: Whether to open the address in a browser.
        read_only: Whether the pages cannot write labels.
        announce: Called with the address once the server listens.

    Raises StoreNotFound for a store that does not exist, ConfigError when the port is taken, MissingExtra without aiohttp.
    """
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise MissingExtra("The package aiohttp is not installed.", f"Run `{install_command('view')}`.") from error
    stores = open_stores(locations, at)
    _give_memory_back()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(stores, host, port, opens, read_only, announce))


def _give_memory_back() -> None:
    """Makes glibc return freed memory to the system. Answers are made in many threads, each with an arena that it would keep. Does nothing with another C library."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 10)


def open_stores(locations: Sequence[str | None], at: str | None) -> dict[str, SqlStore]:
    """The stores by name: the last part of the location, numbered if two are equal."""
    stores: dict[str, SqlStore] = {}
    for location in locations:
        store = SqlStore.open(store_location(location), at)
        base = store.uri.rstrip("/").rpartition("/")[2] or "store"
        name, number = base, 2
        while name in stores:
            name, number = f"{base}-{number}", number + 1
        stores[name] = store
    return stores


async def _serve(
    stores: dict[str, SqlStore], host: str, port: int, opens: bool, read_only: bool, announce: Callable[[str], None]
) -> None:
    from aiohttp import web

    from ..base.web import is_loopback
    from .server import make_app

    key = None if is_loopback(host) else secrets.token_urlsafe(24)
    app = make_app(stores, key=key, hosts=[host], read_only=read_only)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    notes: list[Path | None] = []
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(
                f"Cannot bind {host}:{port}: {reason}.", "Use another --port; 0 takes a free one."
            ) from error
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{runner.addresses[0][1]}/" + (f"?key={key}" if key else "")
        notes += [leave(store, url.partition("?key=")[0]) for store in stores.values() if store.at is None]
        announce(url)
        if opens:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        await _ended()
    finally:
        for note in notes:
            if note is not None:
                note.unlink(missing_ok=True)
        await runner.cleanup()


async def _ended() -> None:
    """Returns at Ctrl-C or SIGTERM, also where a shell started the command in the background and had it ignore Ctrl-C."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(
            NotImplementedError, RuntimeError
        ):  # no signal handlers on this platform, or not in this thread
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
