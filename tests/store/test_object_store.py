"""A store on an object store: moto's local S3 server, as it is and made to ignore conditional puts."""

import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rollhouse.base.errors import StoreNotFound, WriteConflict
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check, compact, gc
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

Wsgi = Callable[[dict[str, Any], Any], Any]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], str]]:
    """Starts a server with an empty bucket, which may lose writes, and returns the URI of a store."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    servers = []

    def serve(conditional: bool) -> str:
        app: Wsgi = DomainDispatcherApplication(create_backend_app)  # type: ignore[arg-type]

        def forgetful(environ: dict[str, Any], start_response: Any) -> Any:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            return app(environ, start_response)

        server = make_server("127.0.0.1", 0, app if conditional else forgetful, threaded=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        bucket = f"bucket-{server.server_port}"
        settings = {
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        for name, value in settings.items():
            monkeypatch.setitem(os.environ, name, value)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
        return f"s3://{bucket}/store"

    yield serve
    for server in servers:
        server.shutdown()


@pytest.mark.system
def test_a_store_on_an_object_store_is_a_store(s3: Callable[[bool], str]) -> None:
    store = LanceStore.create(s3(True))
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, max_bytes=1) as writer:
        for i in range(4):
            writer.add(sum_rollout("r", i))
        run.metrics(1, {"loss": 0.5})
    create_snapshot(store, "four")
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        for i in range(6):
            writer.add(sum_rollout("r", i))
    compact(store)
    gc(store, yes=True)
    again = LanceStore.open(store.uri)
    assert again.read("rollouts").num_rows == 6
    assert again.read("rollouts", at="four").num_rows == 4
    assert len(again.lance_dataset("rollouts").get_fragments()) == 1
    assert check(again) == []


def test_a_second_writer_is_refused_on_an_object_store_too(s3: Callable[[bool], str]) -> None:
    store = LanceStore.create(s3(True))
    with start_run(store, "collect", "r"), pytest.raises(WriteConflict, match="run/r is held by process"):
        start_run(store, "collect", "r")


def test_a_store_that_ignores_conditional_puts_is_refused(s3: Callable[[bool], str]) -> None:
    uri = s3(False)
    with pytest.raises(WriteConflict, match=r"lost \d+ of 12 commits made at once.*If-None-Match"):
        LanceStore.create(uri)
    with pytest.raises(StoreNotFound):
        LanceStore.open(uri)


def test_a_store_that_is_not_there_is_named(s3: Callable[[bool], str]) -> None:
    bucket = s3(True).replace("bucket-", "nobucket-")
    with pytest.raises(StoreNotFound, match="cannot be written"):
        LanceStore.create(bucket)
