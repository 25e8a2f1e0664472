"""Accepts connections in bounded number. More than that wait in the kernel's queue; what only holds a connection loses it.

A client without a key may open thousands of connections and send nothing, or half a request. Such a connection is closed after FIRST_REQUEST_S; while
all are taken, connections that are idle between two requests are closed too, so that those who wait get their turn.
"""

import asyncio
import contextlib
import socket
from typing import Any

from ..base.http import connections_for

MOST = 16_384
"""Connections at a time; fewer where the limit on open files cannot be raised so far."""
FIRST_REQUEST_S = 30.0
_BACKLOG = 4_096
_PAUSE_S = 0.02
_SWEEP_S = 1.0


class Acceptor:
    """The connections of one listening socket, given to an aiohttp runner's server."""

    def __init__(self, runner: Any, listener: socket.socket) -> None:
        self._runner, self._listener = runner, listener
        # Half of the descriptors: the engine behind an endpoint takes a connection for each request, too.
        self.most = connections_for(MOST, 2)
        self._waiting: dict[Any, float] = {}

    def listen(self) -> None:
        """Raises OSError when another socket listens on the port."""
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)

    async def run(self) -> None:
        """Accepts until it is cancelled. Running out of descriptors pauses it and ends nothing."""
        sweeper = asyncio.create_task(self._sweep())
        try:
            await self._accept()
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._handlers()) >= self.most:
                self._close_idle()
                await asyncio.sleep(_PAUSE_S)
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # too many open files, here or in the whole system, or a client that is gone already
                self._close_idle()
                await asyncio.sleep(_PAUSE_S)
                continue
            try:
                await loop.connect_accepted_socket(self._runner.server, connection)
            except OSError:
                connection.close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_SWEEP_S, FIRST_REQUEST_S / 2))
            now = loop.time()
            silent = [handler for handler in self._handlers() if _asks_nothing(handler)]
            self._waiting = {handler: self._waiting.get(handler, now) for handler in silent}
            for handler, since in self._waiting.items():
                if now - since > FIRST_REQUEST_S:
                    _close(handler)

    def _close_idle(self) -> None:
        for handler in self._handlers():
            if _waits(handler) and handler._request_count:
                _close(handler)

    def _handlers(self) -> list[Any]:
        return self._runner.server.connections if self._runner.server is not None else []


def _waits(handler: Any) -> bool:
    """Whether a connection waits for the header of a request."""
    return handler._waiter is not None and not handler._waiter.done() and not handler._messages


def _asks_nothing(handler: Any) -> bool:
    """Whether a connection has had no request yet; one that is idle after a request is aiohttp's to close."""
    return _waits(handler) and not handler._request_count


def _close(handler: Any) -> None:
    transport = handler.transport
    if transport is not None:
        with contextlib.suppress(Exception):
            transport.close()
