"""Access to the pages: only by this machine's names, only from this server's pages, and beyond loopback only with the key."""

import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from ..base.web import foreign, own_names

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


def guard(key: str | None, hosts: Iterable[str] = ()) -> Any:
    """The middleware. `key` is the key of readers, None without one; `hosts` are further names of the server."""
    names = own_names(hosts)

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


def _refusal(request: web.Request, names: frozenset[str], key: str | None) -> web.Response | None:
    # A link to a page from elsewhere is fine; what the pages fetch is theirs alone.
    fetched = request.path.startswith("/api/")
    headers = {name: value for name, value in request.headers.items() if fetched or name != "Sec-Fetch-Site"}
    stranger = foreign(headers, names)
    if stranger is not None:
        return _refused(stranger, "Open the viewer's own address; name another host with --host.")
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


def _refused(message: str, fix: str, status: int = 403) -> web.Response:
    return web.json_response({"error": message, "fix": fix}, status=status)
