"""A store's version, what crashes leave and `check` names, times that are no snapshot, and a gc on a full disk."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rollhouse.base.errors import StoreTooNew, VersionNotFound
from rollhouse.cli.main import app
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.repair import repair
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.transform.build import build_sft
from typer.testing import CliRunner

KILLED = """
import os, sys
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.serve.calls import CallFiles
store = LanceStore.create(sys.argv[1])
start_run(store, "import", "cut")
start_run(store, "collect", "served")
folder = CallFiles(store, "served").folder
folder.mkdir(parents=True)
(folder / "a.jsonl").write_text("{}\\n")
os.kill(os.getpid(), 9)
"""


def test_a_store_has_a_version_and_a_later_one_is_refused_by_name(store: LanceStore) -> None:
    file = Path(store.uri) / "_store.json"
    assert json.loads(file.read_text())["format"] == 1
    file.write_text(json.dumps({"format": 7, "rollhouse": "3.1.0"}))
    for make in (LanceStore.open, LanceStore.create):
        with pytest.raises(StoreTooNew, match=r"has format 7, written by rollhouse 3\.1\.0"):
            make(store.uri)
    file.unlink()
    LanceStore.open(store.uri)
    for text in ("", "[]", '{"format": null}', "\x00", "[" * 9000):
        file.write_text(text)
        result = CliRunner().invoke(app, ["runs", "list", "--store", store.uri])
        assert result.exit_code == 1 and "_store.json cannot be read" in result.stderr


def test_check_names_what_killed_processes_leave(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "s")], check=False, timeout=120)
    store = LanceStore.open(tmp_path / "s")
    problems = check(store)
    assert [problem.split(" and no ")[0] for problem in problems] == ["Import cut has no end", "Run served has 1 open served rollouts"]  # fmt: skip
    assert any("marked as failed" in done for done in repair(store)) and get_run(store, "cut")["status"] == "failed"
    assert [problem for problem in check(store) if "Import" in problem] == []
    with start_run(store, "import", "alive"):
        assert not [problem for problem in check(store) if "alive" in problem], "its process lives"


def test_a_time_is_no_snapshot_of_a_dataset(store: LanceStore) -> None:
    with pytest.raises(VersionNotFound, match="lies in the future"):
        store.read("rollouts", at=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    for at in ("2999-01-01", datetime.now(UTC).isoformat()):
        with pytest.raises(VersionNotFound, match="There is no snapshot"):
            build_sft(store, "demos", at)
    assert check(store) == []


FULL = """
import resource, signal, sys
from datetime import timedelta
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import gc
store = LanceStore.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
print(sum(row["versions"] for row in gc(store, yes=True, retention=timedelta(0))))
"""


def test_gc_frees_space_where_nothing_can_be_written(store: LanceStore) -> None:
    for i in range(3):
        create_snapshot(store, f"s{i}")
    for _ in range(3):
        with start_run(store, "collect", "r"):
            pass
    done = subprocess.run(
        [sys.executable, "-c", FULL, store.uri], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr[-600:]
    assert check(store) == []
