"""`--view`: a viewer beside a long command, and the address of one that runs already."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from rollhouse.store.lance_store import LanceStore
from rollhouse.view.notes import running

COLLECT = [sys.executable, "-m", "rollhouse", "collect", "--env", "workplace-mini", "--engine", "scripted", "--limit", "2"]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def stores_of(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}api/stores", timeout=60) as answer:
        return json.load(answer)["stores"]


def ended(url: str) -> bool:
    """Whether nothing answers at the address within 30 seconds."""
    for _ in range(300):
        try:
            stores_of(url)
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_a_command_starts_a_viewer_and_ends_it(store: LanceStore) -> None:
    done = subprocess.run([*COLLECT, "--view", "--store", store.uri], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (url,) = re.findall(r"^Viewing at (http://127\.0\.0\.1:\d+/)$", done.stderr, re.MULTILINE)
    assert ended(url) and running(store) is None


def test_a_viewer_that_runs_is_named(store: LanceStore) -> None:
    child = subprocess.Popen([sys.executable, "-m", "rollhouse.view.child", store.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    url = child.stdout.readline().strip()
    assert running(store) == url and stores_of(url)[0]["labels"] is True
    done = subprocess.run([*COLLECT, "--store", store.uri], capture_output=True, text=True, timeout=300)
    assert f"Viewing at {url}" in done.stderr
    child.kill()  # its note stays, and is no longer believed
    child.wait(30)
    assert running(store) is None


def test_a_viewer_ends_with_the_command_that_started_it(store: LanceStore) -> None:
    child = subprocess.Popen([sys.executable, "-m", "rollhouse.view.child", store.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    assert stores_of(child.stdout.readline().strip())
    child.stdin.close()
    assert child.wait(60) == 0 and running(store) is None
