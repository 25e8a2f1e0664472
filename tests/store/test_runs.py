"""Runs start, resume, end in one of three ways, and have one process at a time."""

import asyncio
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from rollhouse.base.errors import ConfigError, StoreNotFound, WriteConflict
from rollhouse.queries.session import sql
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run, list_runs, start_run


def test_a_run_has_events_from_start_to_finish(store: LanceStore) -> None:
    with start_run(store, "collect", "first", {"limit": 3, "dataset": "d@1"}) as run:
        assert get_run(store, "first")["status"] == "running"
        run.note({"seen": 1})
        run.finish({"rollouts": 3, "loss": float("nan")})
    found = get_run(store, "first")
    assert (found["kind"], found["status"], found["incarnation"], found["events"]) == ("collect", "finished", 0, 3)
    assert found["config"] == {"limit": 3, "dataset": "d@1"}
    assert found["summary"] == {"rollouts": 3, "loss": None}
    assert found["started_at"] <= found["finished_at"]


def test_leaving_without_finish_finishes(store: LanceStore) -> None:
    with start_run(store, "collect", "quiet"):
        pass
    assert get_run(store, "quiet")["status"] == "finished"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bad"), "failed"),
        (KeyboardInterrupt(), "aborted"),
        (asyncio.CancelledError(), "aborted"),
        # as Lance hands on a Ctrl-C that came while it was at work
        (pa.ArrowInvalid("External error: KeyboardInterrupt:"), "aborted"),
    ],
)
def test_leaving_by_an_exception_is_recorded_and_raised(store: LanceStore, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), start_run(store, "sft", "r"):
        raise error
    found = get_run(store, "r")
    assert found["status"] == status
    assert found["summary"] == {"error": type(error).__name__, "message": str(error)}


def test_starting_again_resumes(store: LanceStore) -> None:
    with pytest.raises(ValueError), start_run(store, "grpo", "r", {"lr": 1}):
        raise ValueError
    with start_run(store, "grpo", "r", {"lr": 2}) as run:
        assert run.incarnation == 1
        assert get_run(store, "r")["status"] == "running"
    found = get_run(store, "r")
    assert (found["status"], found["incarnation"], found["config"]) == ("finished", 1, {"lr": 2})
    events = store.read("run_events").sort_by("sequence")
    assert events["event"].to_pylist() == ["started", "failed", "resumed", "finished"]


def test_what_cannot_be_started_is_refused(store: LanceStore) -> None:
    with start_run(store, "collect", "r"):
        pass
    with pytest.raises(ConfigError, match="of kind collect, not sft"):
        start_run(store, "sft", "r")
    with pytest.raises(ConfigError, match="no run kind 'cook'"):
        start_run(store, "cook")
    with pytest.raises(ConfigError, match="cannot name a run"):
        start_run(store, "sft", "../up")


def test_a_nameless_run_gets_an_id_with_its_kind(store: LanceStore) -> None:
    with start_run(store, "eval") as run:
        assert run.run_id.startswith("eval-20")
    assert get_run(store, run.run_id)["name"] == run.run_id


def test_an_unknown_run_names_near_ones(store: LanceStore) -> None:
    with start_run(store, "collect", "base-collect"):
        pass
    with pytest.raises(StoreNotFound) as caught:
        get_run(store, "base-colect")
    assert "base-collect" in caught.value.fix


def test_a_second_process_on_the_run_is_refused_by_name(store: LanceStore) -> None:
    script = (
        "import sys; from rollhouse.store.lance_store import LanceStore; from rollhouse.store.runs import start_run\n"
        "run = start_run(LanceStore.open(sys.argv[1]), 'collect', 'busy'); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, store.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(WriteConflict, match=f"run/busy is held by process {other.pid} "):
            start_run(store, "collect", "busy")
        with start_run(store, "collect", "free"):
            pass
        other.kill()
        other.wait()
        # Its holder is dead, so the run can go on.
        with start_run(store, "collect", "busy") as run:
            assert run.incarnation == 1
    # The refusal left no trace in the run's story.
    events = store.read("run_events", filter="run_id = 'busy'").sort_by("sequence")["event"].to_pylist()
    assert events == ["started", "resumed", "finished"]


def test_of_many_starts_at_once_one_gets_through(store: LanceStore) -> None:
    def attempt(_: int) -> bool:
        try:
            start_run(store, "collect", "wanted")
        except WriteConflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    assert store.read("run_events").num_rows == 1


def test_metrics_keep_the_first_value_of_a_step_and_name(store: LanceStore) -> None:
    with start_run(store, "grpo", "r") as run:
        run.metrics(0, {"val/accuracy": 0.25})
        run.metrics(1, {"train/reward": 0.5, "train/loss": 0.1})
        run.metrics(1, {"train/reward": 0.75, "train/kl": 0.2})
    rows = store.read("metrics").to_pylist()
    assert {(row["step"], row["name"]): row["value"] for row in rows} == {
        (0, "val/accuracy"): 0.25,
        (1, "train/reward"): 0.5,
        (1, "train/loss"): 0.1,
        (1, "train/kl"): 0.2,
    }
    assert len({row["row_id"] for row in rows}) == len(rows) == 4


def test_a_run_travels_to_another_process_and_writes_there(store: LanceStore) -> None:
    with start_run(store, "grpo", "r") as run:
        copy = pickle.loads(pickle.dumps(run))
        copy.metrics(1, {"a": 1.0})
        copy.note({"from": "there"})
        run.note({"from": "here"})
    assert store.read("run_events")["sequence"].to_pylist() == [0, 1, 2, 3]
    with pytest.raises(WriteConflict):
        run.metrics(2, {"a": 1.0})


def test_events_of_two_that_write_one_run_have_numbers_of_their_own(store: LanceStore) -> None:
    with start_run(store, "collect", "shared") as run:
        other = pickle.loads(pickle.dumps(run))
        for number in range(3):
            run.note({"number": number})
            other.note({"number": number})
    rows = store.read("run_events", filter="run_id = 'shared'").to_pylist()
    assert sorted(row["sequence"] for row in rows) == list(range(8))


def test_list_runs_and_the_view_tell_the_same(store: LanceStore) -> None:
    with start_run(store, "collect", "a", {"x": 1}) as run:
        run.finish({"n": 1})
    with pytest.raises(ValueError), start_run(store, "sft", "b"):
        raise ValueError("no")
    with start_run(store, "sft", "b"):
        pass
    still = start_run(store, "eval", "c")
    columns = ("run_id", "kind", "name", "status", "started_at", "finished_at", "incarnation")
    listed = [{key: run[key] for key in columns} for run in list_runs(store)]
    assert sql(store, f"SELECT {', '.join(columns)} FROM runs ORDER BY started_at").to_pylist() == listed
    assert [run["status"] for run in listed] == ["finished", "finished", "running"]
    still.finish()
