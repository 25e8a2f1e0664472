"""Rollouts on a real Ray cluster: the same rows as in one process, whatever becomes of the workers."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import EngineError
from rollhouse.base.recipes import resolve
from rollhouse.collect.config import CollectConfig
from rollhouse.collect.job import run_job
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run
from rollhouse.tests.cli.test_collect import alive, descendants, start, wait_for

OFFICE = str(Path(__file__).parents[1] / "cli" / "slow_office.py")
COLUMNS = ["rollout_id", "status", "reward", "error_type", "error_message", "policy_id", "engine", "messages"]


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def rows_of(store: LanceStore, run: str) -> dict[str, dict[str, Any]]:
    return {row["rollout_id"]: row for row in store.read("rollouts", COLUMNS, f"run_id = '{run}'").to_pylist()}


def office(**options: Any) -> dict[str, Any]:
    return {"environment": {"name": OFFICE, "options": options}, "policy": {"mistake_rate": 0.3}, "seed": 5, "run": "r"}


def configured(office: dict[str, Any], **options: Any) -> CollectConfig:
    return resolve(CollectConfig, options={**office, **options})


def players() -> list[int]:
    """Worker processes below this one that have a player."""
    import psutil

    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            found += [one.pid] if "ray::Player" in " ".join(one.cmdline()) else []
    return found


def test_a_worker_that_dies_is_replaced_and_its_slots_are_played_again(
    ray_session: None, store: LanceStore, tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    lives.write_text("one\n")
    config = configured(office(dies=str(lives)), limit=20, num_repeats=2, workers="ray:2", concurrency=8)
    summary = run_job(store, config)
    assert (summary.collected, summary.failed, summary.workers_lost, summary.in_flight) == (40, 0, 1, 0)
    assert lives.read_text() == ""
    wait_for(lambda: not players(), 30)
    here = LanceStore.create(tmp_path / "here")
    run_job(here, config.model_copy(update={"workers": None}))
    assert rows_of(store, "r") == rows_of(here, "r"), "the same slots with the same rollouts as in one process"
    assert run_job(store, config).collected == 0
    with pytest.raises(EngineError, match="99 workers"):
        run_job(store, configured({**office(), "run": "s"}, workers="ray:99", concurrency=99, limit=1))


@pytest.mark.system
def test_a_rollout_that_kills_every_worker_is_one_row(ray_session: None, store: LanceStore, tmp_path: Path) -> None:
    config = configured(office(dies=str(tmp_path / "no file")), limit=9, workers="ray:2", concurrency=1)
    summary = run_job(store, config)
    poison = [row for row in rows_of(store, "r").values() if row["status"] == "error"]
    assert summary.collected == 9 and summary.errors == {"worker": len(poison)} and len(poison) == 1
    assert summary.workers_lost == 3 and "its workers died" in poison[0]["error_message"]
    assert (poison[0]["engine"], poison[0]["policy_id"]) == ("scripted", "scripted-0.3")


@pytest.mark.system
def test_ctrl_c_leaves_no_worker(store: LanceStore, tmp_path: Path) -> None:
    recipe = tmp_path / "slow.json"  # JSON is YAML too
    recipe.write_text(
        json.dumps({**office(pause_s=0.2), "num_repeats": 4, "limits": {"concurrency": 16}, "workers": "ray:2"})
    )
    process = start("collect", "--config", recipe, "--allow-code", "--store", store.uri)
    wait_for(lambda: rows_of(store, "r"), 120)
    family = descendants(process.pid)
    assert len(family) > 3, "Ray and the workers run"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    wait_for(lambda: not [pid for pid in family if alive(pid)], 30)
    assert get_run(store, "r")["status"] == "aborted" and 0 < len(rows_of(store, "r")) < 1600


def test_a_missing_cluster_is_reported_at_once(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    process = start("collect", "--env", OFFICE, "--workers", "ray", "--store", store.uri)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "There is no Ray cluster at 127.0.0.1:9" in " ".join(errors.split())
