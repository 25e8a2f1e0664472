"""How much of one request is looked at, and how long; large ones are worked on beside the event loop.

The bounds hold before a body is parsed or rendered, for callers without a key too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from .errors import ApiError, refused

T = TypeVar("T")
MAX_BODY = 64 << 20
MAX_MESSAGES = 10_000
MAX_IDS = 1 << 20
_MOST_CONTAINERS, _MOST_MEMBERS, _MOST_VALUES = 1_000_000, 1_000_000, 2_500_000
_BODY_S = 120.0
_LARGE = 64 << 10
"""Bytes or characters from which work is done in a thread."""
_BODIES_AT_ONCE = 512 << 20
_threads = ThreadPoolExecutor(2, "rollhouse-requests")


async def beside(size: int, function: Callable[..., T], *arguments: object) -> T:
    """The result of a function, computed in a thread when `size` (bytes or characters of its input) is large."""
    if size < _LARGE:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_threads, function, *arguments)


def refuse_expansion(raw: bytes) -> None:
    """Raises ApiError for JSON whose values would take many times its size."""
    if len(raw) <= _LARGE:
        return
    if (
        raw.count(b"{") + raw.count(b"[") > _MOST_CONTAINERS
        or raw.count(b":") > _MOST_MEMBERS
        or raw.count(b",") > _MOST_VALUES
    ):
        raise ApiError(413, f"The body holds more than {_MOST_CONTAINERS:,} objects and lists, {_MOST_MEMBERS:,} members of objects or {_MOST_VALUES:,} values.", "too_large")  # fmt: skip


def refuse_many(given: object, most: int, what: str) -> None:
    """Raises ApiError for a list of more than `most` items."""
    if isinstance(given, list) and len(given) > most:
        raise refused(f"`{what}` has {len(given):,} items; at most {most:,} are taken.")


class Bodies:
    """Bytes of large bodies that are held at a time; the next one waits."""

    def __init__(self) -> None:
        self._held = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Room for a body, as long as it is read and parsed."""
        if size < _LARGE:
            yield
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._held == 0 or self._held + size <= _BODIES_AT_ONCE)
            self._held += size
        try:
            yield
        finally:
            async with self._changed:
                self._held -= size
                self._changed.notify_all()


async def in_time(read: Awaitable[bytes]) -> bytes:
    """A body, as far as it arrives in time. Raises ApiError (408)."""
    try:
        async with asyncio.timeout(_BODY_S):
            return await read
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {_BODY_S:g} s.", "timeout") from None
