"""Callers without a key: pages of other sites, bodies that cost more than they weigh, connections that hold and say nothing."""

import contextlib
import gzip
import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.serve import bounds, connections, job
from rollhouse.serve.bodies import body_of
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.serve.running import Server, serving

JSON = {"Content-Type": "application/json"}
POSTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize", "/rollouts/a/finish", "/rollouts/a/score", "/rollouts/a/v1/chat/completions"]  # fmt: skip


def status(server: Server, path: str, **how) -> tuple[int, str]:
    reply = httpx.request("POST" if path in POSTS else "GET", server.url + path, verify=False, **how)
    return reply.status_code, reply.text


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "evil.example:8000"}, {"Host": "127.0.0.1.evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])  # fmt: skip
def test_a_page_of_another_site_reaches_no_route(server: Server, headers: dict[str, str]) -> None:
    for path in (*POSTS, "/health", "/v1/models", "/rollouts/a"):
        assert status(server, path, headers=JSON | headers, **({"content": b"{}"} if path in POSTS else {}))[0] == 403


def test_names_of_this_machine_are_answered(server: Server) -> None:
    for host in ("localhost", "127.0.0.1:1", "[::1]", socket.gethostname()):
        assert status(server, "/health", headers={"Host": host})[0] == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_every_post_wants_json(server: Server, kind: str | None) -> None:
    for path in POSTS:
        for content in (b"", b"{}"):
            assert status(server, path, content=content, headers={"Content-Type": kind} if kind else {})[0] == 415


BODIES = {
    "many messages": ("/v1/chat/completions", b'{"messages": [' + b",".join([b"{}"] * 400_000) + b"]}", 400),
    "many ids": ("/detokenize", b'{"tokens": [' + b"1," * 5_000_000 + b"1]}", 413),
    "many prompt ids": ("/v1/completions", b'{"prompt": [' + b"1," * 2_000_000 + b"1]}", 400),
    "carried ids": ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "required_prefix_token_ids": [' + b"1," * 2_000_000 + b"1]}", 400),
    "lists": ("/v1/chat/completions", b'{"messages": [' + b"[]," * 2_000_000 + b"[]]}", 413),
    "members": ("/v1/chat/completions", b'{"a": {' + b",".join(b'"%d" : 1' % n for n in range(1_000_001)) + b"}}", 413),
    "values": ("/v1/chat/completions", b'{"messages": [' + b"1," * 9_000_000 + b"1]}", 413),
    "long text": ("/tokenize", b'{"prompt": "' + b"a " * 20_000_000 + b'"}', 400),
    "utf-16": ("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "a"}]}).encode("utf-16"), 400),
    "utf-16 without a mark": ("/rollouts/a/finish", json.dumps({"reward": 1}).encode("utf-16-le"), 400),
    "utf-32": ("/rollouts/a/score", json.dumps({"reward": 1}).encode("utf-32"), 400),
    "raw surrogates": ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}', 400),
    "latin-1": ("/tokenize", '{"prompt": "Grüße"}'.encode("latin-1"), 400),
    "escaped surrogates": ("/tokenize", b'{"prompt": "\\ud800"}', 400),
    "escaped surrogates in a name": ("/rollouts/a/finish", b'{"metadata": [{"\\uDFFF": 1}]}', 400),
    "huge number": ("/rollouts/a/finish", b'{"reward": 1' + b"0" * 400 + b"}", 400),
    "huger number": ("/rollouts/a/finish", b'{"reward": 1' + b"0" * 5000 + b"}", 400),
    "deep": ("/v1/chat/completions", b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
def test_a_body_is_bounded_before_the_work(server: Server, capfd: pytest.CaptureFixture[str], what: str) -> None:
    path, body, expected = BODIES[what]
    found, text = status(server, path, content=body, headers=JSON, timeout=60)
    assert (found, "Traceback" in capfd.readouterr().err) == (expected, False), text[:300]
    assert len(text) < 1000


def test_a_body_that_expands_is_cut_short(server: Server) -> None:
    bomb = gzip.compress(b'{"prompt": "' + b"a" * (100 << 20) + b'"}', 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert status(server, "/tokenize", content=bomb, headers=JSON | {"Content-Encoding": "gzip"}, timeout=60)[0] in (400, 413)  # fmt: skip
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10, "kilobytes"


def test_health_is_answered_while_a_large_request_is_worked_on(server: Server) -> None:
    """Counted, not timed: the request is still open when health has been answered many times."""
    body = json.dumps({"messages": [{"role": "user", "content": "a b c " * 40}] * 9_000}).encode()
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, verify=False) as client:
        large = pool.submit(status, server, "/tokenize", content=body, headers=JSON, timeout=120)
        answered = 0
        while not large.done():
            answered += client.get("/health", timeout=60).status_code == 200
    assert answered >= 3 and large.result()[0] in (200, 400)


@pytest.mark.parametrize("body", [b'{"a": {' + b",".join(b'"%d": 1' % n for n in range(120_000)) + b"}}", b'{"a": [' + b"1," * 1_600_000 + b"1]}", b'{"a": [' + b"[]," * 310_000 + b"[]]}"])  # fmt: skip
def test_what_takes_long_to_decode_lets_other_threads_run(body: bytes) -> None:
    """Counted, not timed: between two values another thread can run, which the decoder in C does not permit."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        value = body_of(body)
    finally:
        sys.setprofile(None)
    assert value == json.loads(body) and calls > 100_000


@contextlib.contextmanager
def half_sent(server: Server, count: int) -> Iterator[None]:
    parts = urlsplit(server.url)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            held = stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
            held.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-")
        yield


def status_of_request(server: Server) -> int:
    """One agent: it holds its connection over two requests."""
    with httpx.Client(base_url=server.url, timeout=120, verify=False) as client:
        return client.get("/v1/models").status_code + client.get("/health").status_code


def test_half_sent_requests_and_more_agents_than_connections(
    torch_policy: TokenPolicy, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST", 40)
    monkeypatch.setattr(connections, "FIRST_REQUEST_S", 0.5)
    served = serving(LanceStore.create(tmp_path / "s"), torch_policy)
    with served as server, half_sent(server, 120), ThreadPoolExecutor(16) as pool:
        assert set(pool.map(status_of_request, [server] * 100)) == {400}


def test_running_out_of_descriptors_ends_nothing(
    torch_policy: TokenPolicy, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_LEASE_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(LanceStore.create(tmp_path / "s"), torch_policy) as server:
        parts = urlsplit(server.url)
        client = socket.create_connection((parts.hostname, parts.port))
        waiting = socket.socket()
        used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            fillers: list[int] = []
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.dup(client.fileno()))
            waiting.connect((parts.hostname, parts.port))
            time.sleep(1.0)  # the lease is checked twenty times, with no descriptor to open the table
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
        client.close()
        waiting.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        waiting.settimeout(30)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        waiting.close()
        assert status_of_request(server) == 400


def test_a_body_that_does_not_come_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_BODY_S", 0.3)
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as client:
        client.sendall(b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")  # fmt: skip
        client.settimeout(30)
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    assert threading.active_count() < 200
