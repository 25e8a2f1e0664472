"""Requests to one or several endpoints: a limit each, the least busy first, retries with backoff, and a circuit breaker."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...base.errors import EngineError, one_line
from ..config import EndpointSettings
from ..engines.base import EngineGone, EngineRefused, PromptTooLong
from .http import Connections, checked_url, connections_for, proxy_of, retry_after_s, what_it_said

T = TypeVar("T")

_REFUSALS = (400, 413, 422)  # an endpoint's last word on a request
_AGAIN = (408, 425, 429)  # these and 5xx are worth another try
_HUNG_S = 1.0  # a request given up sooner says nothing about its endpoint
_TOO_LONG = ("context length", "context_length", "context size")  # as vLLM, OpenAI and llama.cpp say it


@dataclass
class Endpoint:
    """One address and how it has been doing. Times are those of time.monotonic().

    Attributes:
        failures: Failures since its last answer.
        open_since: When its circuit breaker opened; None while it is closed. An open one lets one request through at a time.
        ready_at: Nothing is sent before: the breaker's pause, or what a Retry-After asked for.
        probing: Whether the request that an open breaker let through is on its way.
        last_failure: What went wrong last.
        slowest_s: Seconds its slowest answer took.
    """

    url: str
    proxy: str | None = None
    in_flight: int = 0
    failures: int = 0
    open_since: float | None = None
    ready_at: float = 0.0
    probing: bool = False
    last_failure: str = ""
    slowest_s: float = 0.0

    def answered(self, seconds: float) -> None:
        """It is alive: its breaker closes."""
        self.failures, self.open_since = 0, None
        self.slowest_s = max(self.slowest_s, seconds)

    def failed(self, why: str, settings: EndpointSettings) -> None:
        """Counts a failure, and opens the breaker after too many in a row."""
        self.failures += 1
        self.last_failure = why
        if self.failures >= settings.breaker_failures:
            now = time.monotonic()
            self.open_since = now if self.open_since is None else self.open_since
            self.ready_at = max(self.ready_at, now + settings.breaker_pause_s)

    def given_up(self, seconds: float, settings: EndpointSettings) -> None:
        """A rollout's time was up before the answer came: a failure when it waited longer than any answer took."""
        if seconds > max(_HUNG_S, self.slowest_s):
            self.failed(f"no answer within {seconds:.3g} s, when a rollout's time was up", settings)

    def hold(self, seconds: float) -> None:
        """Sends nothing for so long."""
        self.ready_at = max(self.ready_at, time.monotonic() + seconds)


class _Failed(Exception):
    """A request that got no usable answer: `again` is whether another try may help, `busy` whether the endpoint only asked to wait."""

    def __init__(self, why: str, again: bool = True, busy: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.again = again
        self.busy = busy


class EndpointPool:
    """Sends each request to the least busy endpoint. Of one event loop at a time, and each loop gets connections of its own."""

    def __init__(self, urls: Sequence[str], api_key: str | None, settings: EndpointSettings) -> None:
        """Raises MissingExtra, and ConfigError for an address that is none."""
        self.settings = settings
        self.endpoints = [Endpoint(url, proxy_of(url)) for url in map(checked_url, urls)]
        self._key = api_key
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._connections = Connections(headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {}), settings.timeout_s)  # fmt: skip
        self._limit = connections_for(settings.concurrency, len(urls))
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def post(self, path: str, body: bytes, read: Callable[[bytes], T]) -> tuple[T, int]:
        """The answer as `read` understands it, and how many times the request was sent again for it.

        Raises EngineRefused (PromptTooLong) for what an endpoint refuses, at once; EngineGone when all of them have been failing for
        `gone_after_s`; else EngineError after the last retry. An answer that makes `read` raise ValueError counts as none.
        """
        retries = 0
        while True:
            endpoint = await self._take()
            probe = endpoint.probing = endpoint.open_since is not None
            try:
                return await self._attempt(endpoint, path, body, read), retries
            except _Failed as failure:
                why, again = failure.why, failure.again
            except EngineError as error:
                error.retries = retries
                raise
            finally:
                endpoint.in_flight -= 1
                if probe:
                    endpoint.probing = False
                self._wake()
            if not again or retries >= self.settings.max_retries:
                times = f" {retries + 1} times" if retries else ""
                error = EngineError(f"The endpoint {endpoint.url} failed{times}: {why}.", "Look at its log, then run the command again.")  # fmt: skip
                error.retries = retries
                raise error
            retries += 1
            # The random part keeps requests that failed together from coming back together.
            await asyncio.sleep(self.settings.backoff(retries) * random.uniform(0.5, 1.0))

    async def get(self, endpoint: Endpoint, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of one GET, without retries. Raises EngineError when the endpoint does not answer."""
        try:
            async with asyncio.timeout(timeout_s):
                status, _, body = await self._send("GET", endpoint, path, None)
        except (_Failed, TimeoutError) as error:
            why = error.why if isinstance(error, _Failed) else f"nothing came within {timeout_s:g} s"
            raise EngineError(f"The endpoint {endpoint.url} does not answer: {why}.", "Check the address (it usually ends in /v1), and that its server runs.") from error  # fmt: skip
        return status, body

    async def _attempt(self, endpoint: Endpoint, path: str, body: bytes, read: Callable[[bytes], T]) -> T:
        """One request. Raises _Failed, and EngineRefused for a refusal; tells the endpoint's breaker how it went."""
        start = time.monotonic()
        try:
            status, headers, answer = await self._send("POST", endpoint, path, body)
            if status == 200:
                try:
                    value = read(answer)
                except ValueError as error:
                    raise _Failed(f"its answer is no completion ({one_line(error, 200)})") from error
                endpoint.answered(time.monotonic() - start)
                return value
            said = self._without_key(what_it_said(status, answer))
            if status in _REFUSALS:
                endpoint.answered(time.monotonic() - start)
                kind = PromptTooLong if any(words in said for words in _TOO_LONG) else EngineRefused
                raise kind(f"The endpoint {endpoint.url} refused: {said}.", "Asking again gives the same answer; see its log.")  # fmt: skip
            if status in (429, 503):
                endpoint.hold(retry_after_s(headers))
            raise _Failed(said, again=status in _AGAIN or status >= 500, busy=status == 429)
        except _Failed as failure:
            if not failure.busy:
                endpoint.failed(failure.why, self.settings)
            raise
        except asyncio.CancelledError:
            endpoint.given_up(time.monotonic() - start, self.settings)
            raise

    async def _send(
        self, method: str, endpoint: Endpoint, path: str, body: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        from aiohttp import ClientError

        session = await self._connections.session()
        try:
            # Redirects are not followed: the key is for this address.
            async with session.request(method, endpoint.url + path, data=body, proxy=endpoint.proxy, allow_redirects=False) as answer:  # fmt: skip
                return answer.status, answer.headers, await answer.read()
        except TimeoutError as error:
            raise _Failed(f"no answer within {self.settings.timeout_s:g} s") from error
        except (ClientError, OSError, ValueError) as error:
            raise _Failed(self._without_key(one_line(f"{type(error).__name__}: {error}", 300)).rstrip(". ")) from error

    async def _take(self) -> Endpoint:
        """The least busy endpoint that may be sent to, counted as busier. First come, first served. Raises EngineGone."""
        endpoint = None if self._waiting else self._least_busy()
        early = False
        while endpoint is None:
            self._raise_if_gone()
            await self._turn(early)
            early, endpoint = True, self._least_busy()
        endpoint.in_flight += 1
        if self._waiting and self._least_busy() is not None:
            self._wake()
        return endpoint

    def _least_busy(self) -> Endpoint | None:
        now = time.monotonic()
        free = [endpoint for endpoint in self.endpoints if endpoint.in_flight < self._limit and endpoint.ready_at <= now and not endpoint.probing]  # fmt: skip
        return min(free, key=lambda endpoint: endpoint.in_flight, default=None)

    async def _turn(self, early: bool) -> None:
        """Waits for a free place, or for the time at which an endpoint is ready again. `early` goes before those who wait."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        (self._waiting.appendleft if early else self._waiting.append)(turn)
        now = time.monotonic()
        pauses = [endpoint.ready_at - now for endpoint in self.endpoints if endpoint.ready_at > now]
        timer = loop.call_later(min(pauses), self._let_go, turn) if pauses else None
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            self._wake()  # who waits behind may have relied on this one's turn or timer
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _let_go(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            self._waiting.remove(turn)
            turn.set_result(None)

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _raise_if_gone(self) -> None:
        opened = [endpoint.open_since for endpoint in self.endpoints if endpoint.open_since is not None]
        if len(opened) == len(self.endpoints) and time.monotonic() - max(opened) > self.settings.gone_after_s:
            first = self.endpoints[0]
            self._wake()  # the next in line is to know it too
            raise EngineGone(
                f"No endpoint has answered for {self.settings.gone_after_s:g} s; {first.url} said last: {first.last_failure}.",
                "What was collected is kept: mend the endpoint and run the same command again.",
            )

    def _without_key(self, said: str) -> str:
        return said.replace(self._key, "***") if self._key else said
