"""Requests to one or several endpoints: a limit for each, the least busy first, retries with backoff, and a circuit breaker."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from ...base.errors import ConfigError, EngineError, one_line
from ...base.http import (
    Backoff,
    Connections,
    HttpAnswer,
    HttpFailure,
    connections_for,
    error_text,
    proxy_of,
    send,
    with_retries,
)
from ...base.secrets import refuse_in_url
from ..config import EndpointSettings
from ..engines.base import EngineGone, EngineRefused, PromptTooLong

T = TypeVar("T")

_REFUSALS = (400, 413, 422)  # final: the same request gets the same answer
_HUNG_S = 1.0  # a request given up sooner does not count against its endpoint
_TOO_LONG = ("context length", "context_length", "context size")  # words of vLLM, OpenAI and llama.cpp


@dataclass
class Endpoint:
    """One endpoint and its state. Times are those of time.monotonic().

    Attributes:
        failures: Failures since its last answer.
        open_since: When its circuit breaker opened; None while it is closed. An open one lets one request through at a time.
        ready_at: Nothing is sent before this time: the breaker's pause or a Retry-After.
        probing: Whether the one request of an open breaker is in flight.
        last_failure: The last failure on one line.
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
        """Counts an answer, and closes the breaker."""
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
        """A rollout's time limit ended the wait: a failure when it waited longer than any answer took."""
        if seconds > max(_HUNG_S, self.slowest_s):
            self.failed(f"no answer within {seconds:.3g} s, the end of a rollout's time limit", settings)

    def hold(self, seconds: float) -> None:
        """Sends nothing for that many seconds."""
        self.ready_at = max(self.ready_at, time.monotonic() + seconds)


def checked_url(url: str) -> str:
    """The URL without a trailing slash, with /v1 where it has no path. Raises ConfigError for an invalid one and for one with a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    refuse_in_url(url, "The endpoint's URL")
    if not usable:
        raise ConfigError(f"{url!r} is not the URL of an endpoint.", "Write it as http://HOST:PORT/v1.")
    return url.rstrip("/") if parts.path.rstrip("/") else f"{parts.scheme}://{parts.netloc}/v1"


class EndpointPool:
    """Sends each request to the least busy endpoint. One event loop uses it at a time, and each loop has connections of its own."""

    def __init__(self, urls: Sequence[str], api_key: str | None, settings: EndpointSettings) -> None:
        """Raises MissingExtra, and ConfigError for an invalid URL."""
        self.settings = settings
        self.endpoints = [Endpoint(url, proxy_of(url)) for url in map(checked_url, urls)]
        self._key = api_key
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._connections = Connections(headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {}), settings.timeout_s)  # fmt: skip
        self._limit = connections_for(settings.concurrency, len(urls))
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def post(self, path: str, body: bytes, read: Callable[[bytes], T]) -> tuple[T, int]:
        """The answer as `read` returns it, and the number of retries it took.

        Raises EngineRefused (PromptTooLong) at once for a request that an endpoint refuses; EngineGone when all endpoints have been failing for
        `gone_after_s`; else EngineError after the last retry. An answer for which `read` raises ValueError counts as a failure.
        """
        endpoint, tries = self.endpoints[0], 0

        async def attempt(retry: int) -> T:
            nonlocal endpoint, tries
            tries = retry
            endpoint = await self._take()
            probe = endpoint.probing = endpoint.open_since is not None
            try:
                return await self._attempt(endpoint, path, body, read)
            finally:
                endpoint.in_flight -= 1
                if probe:
                    endpoint.probing = False
                self._wake()

        settings = self.settings
        backoff = Backoff(settings.max_retries, settings.backoff_s, settings.backoff_max_s)
        try:
            # A Retry-After holds back the whole endpoint, see `hold`, and another may be free.
            return await with_retries(attempt, backoff, wait_for_server=False)
        except HttpFailure as failure:
            times = f" {tries + 1} times" if tries else ""
            error = EngineError(f"The endpoint {endpoint.url} failed{times}: {failure.why}.", "See its log, then run the command again.")  # fmt: skip
            error.retries = tries
            raise error from failure
        except EngineError as error:
            error.retries = tries
            raise

    async def get(self, endpoint: Endpoint, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of one GET, without retries. Raises EngineError when the endpoint does not answer."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._send("GET", endpoint, path, None)
        except (HttpFailure, TimeoutError) as error:
            why = error.why if isinstance(error, HttpFailure) else f"no answer within {timeout_s:g} s"
            raise EngineError(f"The endpoint {endpoint.url} does not answer: {why}.", "Check the URL (it usually ends in /v1), and that its server runs.") from error  # fmt: skip
        return answer.status, answer.body

    async def _attempt(self, endpoint: Endpoint, path: str, body: bytes, read: Callable[[bytes], T]) -> T:
        """One request, counted by the endpoint's breaker. Raises HttpFailure, and EngineRefused for a refusal."""
        start = time.monotonic()
        try:
            answer = await self._send("POST", endpoint, path, body)
            if answer.status == 200:
                try:
                    value = read(answer.body)
                except ValueError as error:
                    raise HttpFailure(f"its answer is not a completion ({one_line(error, 200)})") from error
                endpoint.answered(time.monotonic() - start)
                return value
            text = self._without_key(error_text(answer.status, answer.body))
            if answer.status in _REFUSALS:
                endpoint.answered(time.monotonic() - start)
                kind = PromptTooLong if any(words in text for words in _TOO_LONG) else EngineRefused
                raise kind(f"The endpoint {endpoint.url} refused the request: {text}.", "The same request would be refused again; see its log.")  # fmt: skip
            failure = HttpFailure.of(answer)
            failure.why = text
            endpoint.hold(failure.retry_after_s)
            raise failure
        except HttpFailure as failure:
            if failure.status != 429:
                endpoint.failed(failure.why, self.settings)
            raise
        except asyncio.CancelledError:
            endpoint.given_up(time.monotonic() - start, self.settings)
            raise

    async def _send(self, method: str, endpoint: Endpoint, path: str, body: bytes | None) -> HttpAnswer:
        session = await self._connections.session()
        try:
            return await send(session, method, endpoint.url + path, self.settings.timeout_s, data=body, proxy=endpoint.proxy)  # fmt: skip
        except HttpFailure as failure:
            failure.why = self._without_key(failure.why)
            raise

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
        """Waits for a free place, or for the time at which an endpoint is ready again. `early` goes to the front of the line."""
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
            self._wake()  # the next in line may have relied on this turn or timer
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
            self._wake()  # the next in line must raise too
            raise EngineGone(
                f"No endpoint has answered for {self.settings.gone_after_s:g} s; the last failure of {first.url}: {first.last_failure}.",
                "Collected rollouts are stored: repair the endpoint and run the same command again.",
            )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text
