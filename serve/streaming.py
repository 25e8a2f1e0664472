"""An answer that is sent while it is sampled."""

import asyncio
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from aiohttp import web

from ..policies.turn_stream import Piece
from .answers import ModelAnswer
from .errors import as_api_error
from .events import EventWriter

_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Sink(Protocol):
    """Gets the pieces of answers while they are sampled."""

    async def begin(self) -> None:
        """The request was accepted and goes to the engine now."""
        ...

    def feed(self, choice: int, pieces: Sequence[Piece]) -> None:
        """Takes pieces of one of several answers."""
        ...


class EventStream:
    """Sends one request's events. Headers and the first event go out as soon as the request is accepted; before that an error has its own status."""

    def __init__(self, request: web.Request, writer: EventWriter, headers: dict[str, str]) -> None:
        self._request, self._writer = request, writer
        self._response = web.StreamResponse(headers=_HEADERS | headers)
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._begun = False

    async def begin(self) -> None:
        """See Sink."""
        if not self._begun:
            self._begun = True
            self._events.put_nowait(self._writer.start())

    def feed(self, choice: int, pieces: Sequence[Piece]) -> None:
        """See Sink."""
        if pieces:
            self._events.put_nowait(self._writer.pieces(choice, pieces))

    async def run(
        self, answer: Coroutine[Any, Any, list[ModelAnswer]], on_error: Callable[[Exception], None]
    ) -> web.StreamResponse:
        """Sends events until the answer is there. A client that goes away cancels it.

        Raises what the answer raises before the first event; a later error is an event, after `on_error`.
        """
        work = asyncio.ensure_future(answer)
        work.add_done_callback(lambda _: self._events.put_nowait(None))
        try:
            while (data := await self._events.get()) is not None:
                await self._write(data)
            await self._end(work, on_error)
        except ConnectionError:  # the client is gone
            pass
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        return self._response

    async def _end(self, work: "asyncio.Future[list[ModelAnswer]]", on_error: Callable[[Exception], None]) -> None:
        try:
            answers = work.result()
        except Exception as error:
            if not self._response.prepared:
                raise
            on_error(error)
            failure = as_api_error(error)
            if failure.status == 500:
                traceback.print_exception(error, file=sys.stderr)
            await self._write(self._writer.failed(failure))
        else:
            await self._write(self._writer.end(answers))
        await self._response.write_eof()

    async def _write(self, data: bytes) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)
        if data:
            await self._response.write(data)
