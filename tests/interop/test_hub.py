"""Exports to the hub. No hub can run here: a server answers its API and keeps the files that an export uploads."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.interop.hub import check_hub
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

COMMIT = "a" * 40


class FileHub(ThreadingHTTPServer):
    """A hub with one dataset.

    Attributes:
        files: By path.
        blobs: Large files by their hash, before a commit names them.
        created: The requests that made a repository.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {".gitattributes": b""}
        self.blobs: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: FileHub  # type: ignore[assignment]

    def log_message(self, *args: Any) -> None: ...

    def _answer(self, value: Any, code: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body, hub = self._body(), self.server
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": path, "uploadMode": "lfs" if path.endswith(".parquet") else "regular", "shouldIgnore": False} for path in paths]})  # fmt: skip
        elif "/objects/batch" in self.path:
            objects = [{**each, "actions": {"upload": {"href": f"{hub.url}/blobs/{each['oid']}"}}} for each in json.loads(body)["objects"]]  # fmt: skip
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for change in map(json.loads, body.splitlines()):
                told = change["value"]
                if change["key"] == "file":
                    hub.files[told["path"]] = base64.b64decode(told["content"])
                elif change["key"] == "lfsFile":
                    hub.files[told["path"]] = hub.blobs[told["oid"]]
            self._answer({"commitUrl": f"{hub.url}/datasets/ann/sums/commit/{COMMIT}", "commitOid": COMMIT})
        elif self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self._answer({"url": f"{hub.url}/datasets/ann/sums"})
        else:
            self._answer({})

    def do_GET(self) -> None:
        hub = self.server
        if "/resolve/" in self.path:
            name = self.path.split("/resolve/")[1].split("/", 1)[1].split("?")[0]
            found = hub.files.get(name)
            self._answer(found, ETag='"x"') if found is not None else self._answer({}, 404, X_Error_Code="EntryNotFound")  # fmt: skip
        elif "/tree/" in self.path:
            folder = self.path.split("/tree/")[1].split("?")[0].partition("/")[2]
            paths = [path for path in hub.files if path.startswith(f"{folder}/" if folder else "")]
            listed = [{"type": "file", "path": path, "size": len(hub.files[path]), "oid": COMMIT} for path in paths]
            self._answer(listed) if paths else self._answer({}, 404, X_Error_Code="EntryNotFound")
        elif hub.created or not self.path.startswith("/api/datasets/"):
            self._answer({"id": "ann/sums", "sha": COMMIT, "siblings": [{"rfilename": path} for path in hub.files], "private": True})  # fmt: skip
        else:
            self._answer({}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[FileHub]:
    server = FileHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.system
def test_a_dataset_is_pushed_with_its_card(hub: FileHub, tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    with start_run(store, "collect", "first", {}) as run, RolloutWriter(store, run, journal=False) as writer:
        writer.add_many([sum_rollout(run.run_id, 0), sum_rollout(run.run_id, 1, reward=0.0, passed=False)])
        run.finish({})
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}  # fmt: skip
    command = [sys.executable, "-m", "rollhouse.cli.main", "export", "trl", "hf:ann/sums", "--store", str(tmp_path / "store"), "--where", "passed"]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert {request.get("visibility") for request in hub.created} == {"private"}
    for path, content in hub.files.items():
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(content)
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "dataset_info:" in card and "# sums" in card and "| where | passed |" in card and "data_files: \"sums.parquet\"" in card  # fmt: skip
    from datasets import load_dataset

    [row] = load_dataset(str(tmp_path / "copy"), split="train", cache_dir=str(tmp_path / "cache")).to_list()
    assert row["completion"][-1]["content"] == "It is 3." and row["reward"] == 1.0


def test_what_cannot_be_pushed() -> None:
    for name, place, says in (("otel", "hf:ann/x", "otel is not uploaded"), ("trl", "hf:ann", "names no dataset"), ("trl", "hf:ann/x@train", "names no dataset")):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            check_hub(name, place)
    assert check_hub("trl", "hf:ann/x") == "ann/x"
