"""Numbers of a run reach the store, also when the run fails."""

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rollhouse.store import runs
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.train.config import LoggerConfig, WandbConfig
from rollhouse.train.tracking import Tracker
from rollhouse.train.wandb_log import wandb_key


def values(store: LanceStore) -> dict[tuple[int, str], float]:
    return {(row["step"], row["name"]): row["value"] for row in store.read("metrics").to_pylist()}


def test_what_was_logged_is_in_the_store_after_the_with(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    with start_run(store, "sft") as run, Tracker(run) as tracker:
        tracker.log(1, {"train/loss": 2.0})
        tracker.log(1, {"train/grad_norm": 1})
        tracker.log(2, {"train/loss": 1.0})
    assert values(store) == {(1, "train/loss"): 2.0, (1, "train/grad_norm"): 1.0, (2, "train/loss"): 1.0}


def test_a_failed_run_keeps_its_numbers(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    with pytest.raises(ZeroDivisionError), start_run(store, "sft") as run, Tracker(run) as tracker:
        tracker.log(1, {"train/loss": 2.0})
        _ = 1 / 0
    assert values(store) == {(1, "train/loss"): 2.0}


def test_numbers_whose_write_failed_wait_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LanceStore.create(tmp_path / "store")
    append, fails = runs.append_rows, [True]

    def once(of: LanceStore, table: str, *others: Any) -> int:
        if table == "metrics" and fails:
            fails.clear()
            raise OSError(28, "No space left on device")
        return append(of, table, *others)

    monkeypatch.setattr(runs, "append_rows", once)
    with start_run(store, "sft") as run, Tracker(run, by_itself=False) as tracker:
        tracker.log(1, {"train/loss": 2.0})
        with pytest.raises(OSError, match="No space left"):
            tracker.flush()
        tracker.log(1, {"train/loss": 3.0, "train/lr": 0.5})
    assert values(store) == {(1, "train/loss"): 3.0, (1, "train/lr"): 0.5}


def test_numbers_may_be_flushed_on_another_thread(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    with start_run(store, "sft") as run, Tracker(run, by_itself=False) as tracker, ThreadPoolExecutor(1) as pool:
        for step in range(1, 30):
            tracker.log(step, {"train/loss": step, "train/lr": 0.0})
            pool.submit(tracker.flush)
    assert values(store) == {(step, name): step if name == "train/loss" else 0.0 for step in range(1, 30) for name in ("train/loss", "train/lr")}  # fmt: skip


def test_the_key_of_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert wandb_key() is None
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password abc\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_key() == "abc"
    monkeypatch.setenv("WANDB_API_KEY", "xyz")
    assert wandb_key() == "xyz"


@pytest.fixture
def logger(tmp_path: Path) -> LoggerConfig:
    return LoggerConfig(log_dir=tmp_path / "logs", wandb_enabled=True, wandb=WandbConfig(timeout_s=2))


def test_a_wandb_server_that_never_answers_leaves_its_files_and_holds_up_nothing(
    tmp_path: Path, logger: LoggerConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = LanceStore.create(tmp_path / "store")
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent, caplog.at_level(logging.WARNING, "rollhouse"):
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        with start_run(store, "sft") as run, Tracker(run, logger) as tracker:
            for step in range(1, 4):
                tracker.log(step, {"train/loss": 1.0 / step})
    assert len(values(store)) == 3
    assert "is unreachable" in caplog.text
    assert list((tmp_path / "logs").glob("wandb/offline-run-*/*.wandb"))


def test_more_than_wandb_takes_is_left_to_the_store(tmp_path: Path, logger: LoggerConfig, monkeypatch) -> None:
    import threading

    from rollhouse.train import wandb_log

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb_log, "HELD_STEPS", 2)
    gate, opened = threading.Event(), wandb_log.WandbLog._open
    monkeypatch.setattr(wandb_log.WandbLog, "_open", lambda self: gate.wait(60) and opened(self))
    store = LanceStore.create(tmp_path / "store")
    with start_run(store, "sft") as run, Tracker(run, logger) as tracker:
        for step in range(1, 7):
            tracker.log(step, {"train/loss": 1.0 / step})
        assert tracker._wandb is not None and tracker._wandb.dropped == 4
        gate.set()
    assert len(values(store)) == 6
