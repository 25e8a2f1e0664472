"""Ids can be used: whole, by a beginning that nothing else has, and as `latest` or RUN/step_N."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, RollhouseError, StoreNotFound
from rollhouse.cli.main import app
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.lineage import lineage
from rollhouse.store.naming import Named, checkpoint_named, named, run_named
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout
from rollhouse.transform.build import build_sft
from rollhouse.transform.options import SftOptions
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """Runs train-a with checkpoints of steps 1 and 2, train-b, and collected; a snapshot and two versions of a dataset."""
    store = LanceStore.create(tmp_path_factory.mktemp("naming") / "store")
    with start_run(store, "sft", "train-a"):
        pass
    with start_run(store, "sft", "train-b"):
        pass
    for step in (1, 2):
        row = {"row_id": f"c{step}", "checkpoint_id": f"train-a/step_{step}", "run_id": "train-a", "step": step, "incarnation": 0, "path": "none", "weights_hash": f"{step}", "metrics": "{}", "created_at": datetime(2026, 1, step, tzinfo=UTC)}  # fmt: skip
        append_rows(store, "checkpoints", [row])
    with start_run(store, "collect", "collected") as run, RolloutWriter(store, run) as writer:
        for i in range(4):
            writer.add(sum_rollout("collected", i))
    create_snapshot(store, "before")
    build_sft(store, "demos", "before")
    build_sft(store, "demos", "before", SftOptions(min_reward=0.1))
    return store


def test_a_run_is_named_by_its_beginning(used: LanceStore) -> None:
    assert [run_named(used, name) for name in ("train-a", "coll", "train-b")] == ["train-a", "collected", "train-b"]
    with pytest.raises(ConfigError, match="begin with 'train': run train-a, run train-b"):
        run_named(used, "train")
    for absent in ("", "none", "train-aa"):
        with pytest.raises(StoreNotFound, match="There is no run"):
            run_named(used, absent)
    assert run_named(used, "latest") == max(
        used.read("run_events", ["run_id", "created_at"], "event = 'started'").to_pylist(), key=lambda row: row["created_at"]
    )["run_id"]  # fmt: skip


def test_a_whole_name_goes_before_a_beginning(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "s")
    for name in ("grpo", "grpo-2", "latest"):
        with start_run(store, "collect", name):
            pass
    assert run_named(store, "grpo") == "grpo" and named(store, "grpo") == Named("run", "grpo")
    assert run_named(store, "latest") == "latest", "a run of that name"


def test_checkpoints_of_runs(used: LanceStore) -> None:
    assert checkpoint_named(used, "train-a/best") == "train-a/best"
    assert checkpoint_named(used, "train-a/latest") == "train-a"
    assert checkpoint_named(used, "latest") == "train-a/step_2"
    assert checkpoint_named(used, "org/model") is None and checkpoint_named(used, "none/best") is None
    assert named(used, "train-a/step_1") == Named("checkpoint", "train-a/step_1")
    assert named(used, "train-a/latest") == Named("checkpoint", "train-a/step_2")
    with pytest.raises(StoreNotFound, match="no checkpoint 'step_7'"):
        named(used, "train-a/step_7")


def test_anything_is_named_by_its_beginning(used: LanceStore) -> None:
    id = sum_rollout("collected", 2).rollout_id
    assert named(used, id) == named(used, id[:12]) == Named("rollout", id)
    task = used.read("tasks", ["task_id"])["task_id"].to_pylist()[0]
    assert named(used, task[:20]) == Named("task", task)
    assert named(used, "demos@2") == named(used, "demos@2") == Named("dataset", "demos@2")
    assert named(used, "demos") == named(used, "dem") == Named("dataset", "demos"), "its last version"
    assert named(used, "bef") == Named("snapshot", "before")
    with pytest.raises(ConfigError, match="things begin with 'train-a/'"):
        named(used, "train-a/")
    for absent in ("zzz", "", "'"):
        with pytest.raises((StoreNotFound, ConfigError)):
            named(used, absent)


def test_lineage_takes_beginnings(used: LanceStore) -> None:
    assert lineage(used, "demos").id == "demos@2" and lineage(used, "bef").kind == "snapshot"
    assert lineage(used, "train-a/latest").id == "train-a/step_2" and lineage(used, "train-b").kind == "run"
    assert lineage(used, sum_rollout("collected", 1).rollout_id[:14]).kind == "rollouts"
    with pytest.raises(StoreNotFound, match="nothing-such"):
        lineage(used, "nothing-such")


@pytest.mark.parametrize(
    "words", [("runs", "show", "coll"), ("search", "add", "--run", "coll"), ("export", "openai-chat", "OUT", "--run", "coll"), ("lineage", "coll"), ("check", "--rollouts", "--run", "coll"), ("report", "coll", "--out", "OUT")]
)  # fmt: skip
def test_commands_take_beginnings(used: LanceStore, tmp_path: Path, words: tuple[str, ...]) -> None:
    place = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    result = CliRunner().invoke(app, [*place, "--store", used.uri])
    assert result.exit_code == 0, result.output
    refused = CliRunner().invoke(app, [word.replace("coll", "train") for word in place] + ["--store", used.uri])
    assert refused.exit_code == 2 and "train-a" in refused.stderr and "train-b" in refused.stderr


def test_python_takes_beginnings(used: LanceStore) -> None:
    import rollhouse as rh

    store = rh.open(used.uri)
    assert store.run("coll").run_id == "collected" and store.lineage("demos").id == "demos@2"
    assert store.search("add", run="coll").arrow().num_rows == store.search("add", run="collected").arrow().num_rows > 0
    with pytest.raises(RollhouseError, match="train-a"):
        store.run("train")
