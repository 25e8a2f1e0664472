"""`rollhouse show ID` and `store.show`: anything by its id."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import rollhouse as rh
from rollhouse.base.errors import ConfigError, StoreNotFound
from rollhouse.cli.main import app
from rollhouse.store.appending import append_rows
from rollhouse.store.runs import start_run
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> rh.Store:
    store = rh.open(tmp_path_factory.mktemp("shown") / "store")
    store.collect(env="workplace-mini", engine="scripted", mistake_rate=0.5, limit=3, num_repeats=2, run="base")
    store.rescore("workplace-mini", run="judged")
    store.snapshot("before")
    store.build_sft("demos", at="before")
    with start_run(store, "sft", "train", {"policy": {"model_name": "m"}, "note": None}) as run:
        run.metrics(1, {"train/loss": 2.0})
        run.metrics(2, {"train/loss": 1.0})
    row = {"row_id": "c", "checkpoint_id": "train/step_2", "run_id": "train", "step": 2, "incarnation": 0, "path": "none", "weights_hash": "ab", "metrics": '{"train/loss": 1.0}', "created_at": datetime(2026, 1, 1, tzinfo=UTC)}  # fmt: skip
    append_rows(store, "checkpoints", [row])
    return store


def first(store: rh.Store, query: str) -> Any:
    return next(iter(store.sql(query).arrow().to_pylist()[0].values()))


def test_a_rollout(store: rh.Store) -> None:
    id = first(store, "select rollout_id from rollouts order by reward desc, rollout_id limit 1")
    found = store.show(id[:14])
    assert (found.kind, found.id, found.facts["run_id"], found.facts["reward"]) == ("rollout", id, "base", 1.0)
    assert found.facts["ground_truth"] and "gaps" in found.facts
    messages = found.parts["messages"]
    assert messages[0]["role"] == "user" and any(message["calls"] for message in messages)
    assert [(verdict["reward"], verdict["passed"]) for verdict in found.parts["verdicts"]] == [(1.0, True)]
    assert all(row["call"].split()[0] == row["truth"].split()[0] for row in found.parts["calls"]), (
        "it earned a reward of 1"
    )
    assert store.show(store.rollout(id)) == found, "an object with an id"


def test_a_group_and_a_task(store: rh.Store) -> None:
    group = first(store, "select group_id from rollouts order by group_id limit 1")
    found = store.show(group)
    assert found.kind == "group" and len(found.parts["rollouts"]) == found.facts["rollouts"] == 2
    task = store.show(found.facts["task_id"][:16])
    assert task.kind == "task" and task.facts["environment"] == "workplace-mini"
    assert task.parts["runs"][0]["rollouts"] == 2 and task.parts["messages"][-1]["role"] == "user"


def test_a_run_and_a_checkpoint(store: rh.Store) -> None:
    run = store.show("tra")
    assert (run.kind, run.facts["kind"], run.facts["status"]) == ("run", "sft", "finished")
    assert run.parts["settings"] == [{"setting": "policy.model_name", "value": "m"}]
    assert run.parts["metrics"] == [{"name": "train/loss", "last": 1.0, "step": 2}]
    assert [row["checkpoint_id"] for row in run.parts["checkpoints"]] == ["train/step_2"]
    for name in ("train/step_2", "train/best", "train/latest", "tra/best"):
        checkpoint = store.show(name)
        assert (checkpoint.kind, checkpoint.id) == ("checkpoint", "train/step_2")
        assert checkpoint.facts["folder"].startswith("not there")


def test_a_dataset_and_a_snapshot(store: rh.Store) -> None:
    for name in ("demos", "demos@1", "dem"):
        found = store.show(name)
        assert (found.kind, found.id, found.facts["snapshot"]) == ("dataset", "demos@1", "before")
    assert len(found.parts["rows"]) == found.facts["n_rows"]
    tables = {row["table"]: row["rows"] for row in store.show("bef").parts["tables"]}
    assert tables["rollouts"] == 6


def test_what_is_not_there_and_what_is_several(store: rh.Store) -> None:
    with pytest.raises(StoreNotFound, match="There is no run, checkpoint"):
        store.show("nothing")
    store.snapshot("train-set")
    with pytest.raises(ConfigError, match="things begin with 'tra'"):
        store.show("tra")
    store.delete_snapshot("train-set")


@pytest.mark.parametrize("name", ["base", "latest", "demos", "before", "train/step_2", "ROLLOUT", "GROUP", "TASK"])
def test_the_command(store: rh.Store, name: str) -> None:
    columns = {"ROLLOUT": "rollout_id", "GROUP": "group_id", "TASK": "task_id"}
    id = first(store, f"select {columns[name]} from rollouts limit 1") if name in columns else name
    for format in ("table", "json", "csv"):
        done = CliRunner().invoke(app, ["show", id, "--store", store.uri, "--format", format])
        assert done.exit_code == 0 and done.stdout, done.output
        if format == "json":
            (shown,) = json.loads(done.stdout)
            assert shown["kind"] == store.show(id).kind and shown["facts"]
    assert "_repr_html_" in dir(store.show(id)) and "<table" in store.show(id)._repr_html_()
