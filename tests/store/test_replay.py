"""Rows written a second time, by a retry or by a restarted run, do not change the store."""

from datetime import UTC, datetime
from typing import Any

import pytest
from rollhouse.queries.session import sql
from rollhouse.store import runs
from rollhouse.store.appending import append_rows, insert_if_absent
from rollhouse.store.ids import hash_id
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.tables import TABLES
from rollhouse.tests.rows import rollout_row, sum_rollout

APPENDED = {"rollouts", "metrics", "training_outcomes", "labels"}


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_a_rule_for_a_second_writing(table: str) -> None:
    rule = TABLES[table].replay
    assert rule.startswith(("inserted if absent", "appended", "exactly once"))
    assert rule.startswith("inserted if absent") == (table not in APPENDED)


@pytest.mark.parametrize("table", TABLES)
def test_inserting_again_changes_nothing_and_the_first_stays(store: LanceStore, table: str) -> None:
    key = TABLES[table].key
    text = next(column.name for column in TABLES[table].columns if column.name != key and column.type == "string")
    rows = [{key: name, text: "first"} for name in ("a", "b")]
    assert insert_if_absent(store, table, rows) == 2
    assert insert_if_absent(store, table, [{key: "b", text: "second"}, {key: "c", text: "second"}]) == 1
    found = {row[key]: row[text] for row in store.read(table, [key, text]).to_pylist()}
    assert found == {"a": "first", "b": "first", "c": "second"}


def test_metrics_whose_writing_landed_and_failed_are_there_once(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = runs.append_rows

    def lands_but_raises(of: LanceStore, table: str, rows: Any) -> int:
        append(of, table, rows)
        raise OSError("connection lost")

    with start_run(store, "sft", "r") as run:
        with monkeypatch.context() as broken:
            broken.setattr(runs, "append_rows", lands_but_raises)
            with pytest.raises(OSError):
                run.metrics(1, {"loss": 1.0})
        run.metrics(1, {"loss": 1.0})
        run.metrics(2, {"loss": 0.5})
    assert sorted(row["value"] for row in store.read("metrics").to_pylist()) == [0.5, 1.0]


def test_the_outcomes_of_the_last_incarnation_count(store: LanceStore) -> None:
    append_rows(store, "rollouts", [rollout_row("r", 0, step=1)])
    name = sum_rollout("r", 0, step=1).rollout_id
    entry = {"rollout_id": name, "advantage": 1.0, "kept": True, "micro_batch": 0}
    plan = {"row_id": hash_id("r", 1), "run_id": "r", "step": 1, "entries": [entry], "created_at": datetime.now(UTC)}
    assert [insert_if_absent(store, "batch_plans", [plan]) for _ in range(2)] == [1, 0]
    for incarnation, ratio in ((0, 0.5), (1, 0.75)):
        row = {"run_id": "r", "incarnation": incarnation, "step": 1, "rollout_id": name, "use_index": 0}
        key = hash_id("r", incarnation, 1, name, 0)
        append_rows(store, "training_outcomes", [{**row, "row_id": key, "ratio_mean": ratio}])
    found = sql(store, "SELECT rollout_id, ratio_mean FROM training_samples WHERE run_id = 'r'").to_pylist()
    assert found == [{"rollout_id": name, "ratio_mean": 0.75}]


def test_a_run_started_again_numbers_its_events_on(store: LanceStore) -> None:
    for _ in range(3):
        with start_run(store, "collect", "r"):
            pass
    rows = store.read("run_events", ["sequence", "event"]).to_pylist()
    events = [row["event"] for row in sorted(rows, key=lambda row: row["sequence"])]
    assert events == ["started", "finished", "resumed", "finished", "resumed", "finished"]
    assert (get_run(store, "r")["incarnation"], get_run(store, "r")["status"]) == (2, "finished")
