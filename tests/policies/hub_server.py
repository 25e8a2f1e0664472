"""A small hub on this machine: the calls `snapshot_download` makes, and the answers that go wrong."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "c0ffee" + "0" * 34
GATED = {"x-error-code": "GatedRepo", "x-error-message": "Access to it is restricted."}


@dataclass
class Hub:
    """What it serves and what it saw.

    Attributes:
        repos: `models/owner/name` or `datasets/owner/name` → files.
        status: A status that every request gets instead of an answer.
        gated: Repositories whose files are refused with 403 to all but the token `let-me-in`.
        paths: Every requested path.
        tokens: Every Authorization header seen.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    status: int | None = None
    gated: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url`, on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            answer(self, hub)

        def do_GET(self) -> None:
            answer(self, hub)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def answer(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    """Sends one answer."""
    path, token = request.path.split("?")[0], request.headers.get("Authorization")
    hub.paths.append(path)
    hub.tokens.append(token)
    if hub.status is not None:
        return send(request, hub.status)
    for name, files in hub.repos.items():
        url_name = name.removeprefix("models/")
        if path.startswith(f"/api/{name}/revision/") or path == f"/api/{name}":
            if path.split("/revision/")[-1] not in ("main", COMMIT, f"/api/{name}"):
                return send(request, 404, {"x-error-code": "RevisionNotFound"})
            return send_json(request, {"id": url_name, "sha": COMMIT, "siblings": []})
        if path.startswith(f"/api/{name}/tree/"):
            return send_json(request, [{"type": "file", "path": file, "size": len(data), "oid": blob(data)} for file, data in files.items()])  # fmt: skip
        if path.startswith(f"/{url_name}/resolve/{COMMIT}/"):
            if name in hub.gated and token != "Bearer let-me-in":
                return send(request, 403, GATED)
            data = files[path.split(COMMIT + "/")[1]]
            return send(request, 200, {"ETag": f'"{blob(data)}"', "X-Repo-Commit": COMMIT}, data)
    return send(request, 404, {"x-error-code": "RepoNotFound"})


def blob(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def send_json(request: BaseHTTPRequestHandler, value: object) -> None:
    send(request, 200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def send(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None, body: bytes = b""
) -> None:
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)
