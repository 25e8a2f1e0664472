"""One HTTP client for endpoints, judges and environment servers: connections of each event loop, one request, and retries with backoff."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from .errors import one_line
from .packages import need

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

# Statuses, besides 5xx, for which another try may help.
RETRIED = (408, 425, 429)
# Statuses of a server that did not work on the request, with or without a Retry-After.
BUSY = (429, 503)

# Servers close idle connections after 5 s (uvicorn) or later; ours are closed earlier, so that no request uses a connection that is being closed.
_KEEP_ALIVE_S = 4.0
_CONNECT_S = 30.0
_OTHER_FILES = 256  # descriptors left for everything else


def proxy_of(url: str) -> str | None:
    """The proxy of the environment for the URL (HTTP_PROXY, HTTPS_PROXY, NO_PROXY); None for this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def connections_for(wanted: int, endpoints: int) -> int:
    """Connections to each endpoint that this process may hold, at most `wanted`; its limit on open files is raised as far as allowed."""
    try:
        import resource
    except ImportError:  # no such limit on this system
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * endpoints + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(wanted, (soft - _OTHER_FILES) // endpoints))
    return wanted


class HttpFailure(Exception):
    """A request without a usable answer.

    Attributes:
        why: The cause on one line.
        again: Whether another try may help.
        status: Of the answer; None when there was none.
        sent: Whether the server may have got the request.
        retry_after_s: Seconds of the answer's Retry-After; 0 without one.
    """

    def __init__(
        self, why: str, again: bool = True, status: int | None = None, sent: bool = True, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(why)
        self.why = why
        self.again = again
        self.status = status
        self.sent = sent
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, answer: "HttpAnswer") -> "HttpFailure":
        """The failure that an error answer is."""
        again = answer.status in RETRIED or answer.status >= 500
        wait = retry_after_s(answer.headers) if answer.status in BUSY else 0.0
        return cls(error_text(answer.status, answer.body), again, answer.status, True, wait)


@dataclass(frozen=True)
class HttpAnswer:
    """Status, headers and body of a response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Backoff:
    """When a failed request is sent again: the n-th retry after `first_s` * 2^(n-1) seconds, at most `most_s`.

    Attributes:
        retries: The most tries after the first.
        jitter: The share of a pause that is left out at random, at most; it keeps requests that failed together apart.
    """

    retries: int
    first_s: float
    most_s: float
    jitter: float = 0.5

    def pause_s(self, retry: int) -> float:
        """Seconds before the retry of that number, counted from 1."""
        longest = min(self.most_s, self.first_s * 2.0 ** min(retry - 1, 60))
        return longest * random.uniform(1.0 - self.jitter, 1.0)


async def with_retries(
    attempt: Callable[[int], Awaitable[T]], backoff: Backoff, wait_for_server: bool = True
) -> tuple[T, int]:
    """The value of `attempt(retry)`, and the number of retries it took (0 is the first try).

    An HttpFailure whose `again` is true is tried again until the retries are used up; the last one is raised. Other errors are raised at once.

    Args:
        wait_for_server: Whether a pause is at least the server's Retry-After. False where the caller holds back requests itself.
    """
    retry = 0
    while True:
        try:
            return await attempt(retry), retry
        except HttpFailure as failure:
            if not failure.again or retry >= backoff.retries:
                raise
            wanted = failure.retry_after_s if wait_for_server else 0.0
        retry += 1
        await asyncio.sleep(max(wanted, backoff.pause_s(retry)))


async def send(
    session: "aiohttp.ClientSession", method: str, url: Any, limit_s: float | None = None, **options: Any
) -> HttpAnswer:
    """One request without retries; the answer may have any status. Redirects are not followed: a key is for its own server only.

    Args:
        limit_s: The session's time limit, for the message.
        options: Of aiohttp's `request` (`data`, `json`, `proxy`).

    Raises HttpFailure when no answer comes.
    """
    import aiohttp

    try:
        async with session.request(method, url, allow_redirects=False, **options) as answer:
            return HttpAnswer(answer.status, answer.headers, await answer.read())
    except TimeoutError as error:
        raise HttpFailure(f"no answer within {limit_s:g} s" if limit_s else "no answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        sent = not isinstance(error, aiohttp.ClientConnectorError)
        raise HttpFailure(one_line(f"{type(error).__name__}: {error}", 300).rstrip(". "), sent=sent) from error


class Connections:
    """One aiohttp session for each event loop, closed with it."""

    def __init__(self, headers: Mapping[str, str], timeout_s: float) -> None:
        """Raises MissingExtra."""
        need("aiohttp")
        self._headers = headers
        self._timeout_s = timeout_s
        self._of_loop: tuple[asyncio.AbstractEventLoop, AsyncGenerator[aiohttp.ClientSession, None], aiohttp.ClientSession] | None = None  # fmt: skip

    async def session(self) -> "aiohttp.ClientSession":
        """The session of the running loop."""
        loop = asyncio.get_running_loop()
        if self._of_loop is None or self._of_loop[0] is not loop:
            opened = self._open()
            self._of_loop = (loop, opened, await anext(opened))
        return self._of_loop[2]

    async def _open(self) -> AsyncGenerator["aiohttp.ClientSession", None]:
        # A loop that ends closes the generators begun in it, and this one closes the session.
        import aiohttp

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        ) as session:
            yield session


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header (a number or a date); 0 when there is none or it cannot be read."""
    given = headers.get("Retry-After", "").strip()
    try:
        if given.replace(".", "", 1).isdecimal():
            return float(given)
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time()) if given else 0.0
    except ValueError:
        return 0.0


def error_text(status: int, body: bytes) -> str:
    """Status and message of an error answer on one line: `error.message`, `message` or `detail` of its JSON, else its text."""
    text = body[:20_000].decode("utf-8", "replace")
    try:
        found: Any = json.loads(text)
        for name in ("error", "message", "detail"):
            found = found.get(name, found) if isinstance(found, dict) else found
    except (ValueError, RecursionError):
        found = text
    found = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return one_line(f"{status} {found}", 300).rstrip(". ")
