"""The HTTP under an endpoint: its address, connections that live as long as the event loop, and what an error answer says."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ...base.errors import ConfigError, one_line
from ..models import need

if TYPE_CHECKING:
    import aiohttp

# Servers close idle connections after 5 s (uvicorn) or later; ours are closed before, so that no request meets a closing one.
_KEEP_ALIVE_S = 4.0
_CONNECT_S = 30.0
_OTHER_FILES = 256  # descriptors left to everything that is no connection


def checked_url(url: str) -> str:
    """The address without a slash at its end, with /v1 where it has no path. Raises ConfigError for one that is none or holds a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if parts.username is not None or parts.password is not None:
        raise ConfigError("The endpoint's address holds a user name or password, which would be stored.", "Leave them out, and put the key into OPENAI_API_KEY.")  # fmt: skip
    if not usable:
        raise ConfigError(f"{url!r} is no address of an endpoint.", "Write it as http://HOST:PORT/v1.")
    return url.rstrip("/") if parts.path.rstrip("/") else f"{parts.scheme}://{parts.netloc}/v1"


def proxy_of(url: str) -> str | None:
    """The proxy the environment names for the address (HTTP_PROXY, HTTPS_PROXY, NO_PROXY); never one for this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def connections_for(wanted: int, endpoints: int) -> int:
    """How many of the wanted connections to each endpoint this process may hold; its limit on open files is raised as far as allowed."""
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
        # A loop that ends closes the generators begun in it, and with this one the session: nobody has to remember to.
        import aiohttp

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        ) as session:
            yield session


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, given as a number or a date; 0 when it does not, or not readably."""
    given = headers.get("Retry-After", "").strip()
    try:
        if given.replace(".", "", 1).isdecimal():
            return float(given)
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time()) if given else 0.0
    except ValueError:
        return 0.0


def what_it_said(status: int, body: bytes) -> str:
    """Status and message of an error answer on one line: `error.message`, `message` or `detail` of its JSON, else its text."""
    text = body[:20_000].decode("utf-8", "replace")
    try:
        said = json.loads(text)
        for name in ("error", "message", "detail"):
            said = said.get(name, said) if isinstance(said, dict) else said
    except (ValueError, RecursionError):
        said = text
    said = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return one_line(f"{status} {said}", 300).rstrip(". ")
