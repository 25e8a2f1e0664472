"""Access to the pages: only by this machine's names, only from this server's pages, and beyond loopback only with the key."""

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
COOKIE = "rollhouse_view"
# Nothing from elsewhere, nothing inline: text of a rollout can neither run nor send requests.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard(key: str | None, hosts: Iterable[str] = ()) -> Any:
    """The middleware. `key` is the key of readers, None without one; `hosts` are further names of the server."""
    names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), *(host.lower() for host in hosts)}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = _refusal(request, names, key)
        if response is None:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = web.json_response({"error": error.reason, "fix": ""}, status=error.status)
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return check


def _refusal(request: web.Request, names: set[str], key: str | None) -> web.Response | None:
    host = _name(request.headers.get("Host", ""))
    # DNS rebinding shows in the Host header as a foreign name; an address cannot be rebound.
    if host not in names and not _is_address(host):
        return _refused(f"The host {host!r} is not a name of this server.", "Name it with --host, or use the address.")
    origin = request.headers.get("Origin")
    if origin is not None and origin.split("://", 1)[-1] != request.headers.get("Host", ""):
        return _refused("The request comes from another site.", "Open the viewer's own address.")
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and request.path.startswith("/api/"):
        return _refused("The request comes from another site.", "Open the viewer's own address.")
    if key is None:
        return None
    given = request.query.get("key")
    if given is not None and hmac.compare_digest(given.encode(), key.encode()):
        # A cookie, which no other site and no script can read, replaces the key in the address bar.
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(COOKIE, key, httponly=True, samesite="Strict", path="/")
        return response
    if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), key.encode()):
        return None
    return _refused("The key is missing or wrong.", "Open the address that `rollhouse view` printed.", 401)


def _name(host: str) -> str:
    """The host without its port, lower case, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(message: str, fix: str, status: int = 403) -> web.Response:
    return web.json_response({"error": message, "fix": fix}, status=status)
