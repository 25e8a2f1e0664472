"""A snapshot reads the same for ever: after appends, compaction and clean-up."""

from datetime import timedelta

import pytest
from rollhouse.base.errors import ConfigError, VersionNotFound
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check, compact, gc
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot, delete_snapshot, diff_snapshots, list_snapshots, show_snapshot
from rollhouse.store.tables import TABLES
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout


def collect(store: LanceStore, run_id: str, n: int, **columns: object) -> None:
    with start_run(store, "collect", run_id) as run, RolloutWriter(store, run, max_bytes=1) as writer:
        for i in range(n):
            writer.add(sum_rollout(run_id, i).changed(**columns))


def test_a_snapshot_survives_appends_compaction_and_gc(store: LanceStore) -> None:
    collect(store, "a", 5)
    created = create_snapshot(store, "before", "five rollouts")
    tables = {table: store.read(table, at="before") for table in TABLES}
    collect(store, "b", 5, reward=0.0)
    compact(store)
    collect(store, "c", 2)
    compact(store)
    freed = gc(store, yes=True, retention=timedelta(0))
    assert sum(row["versions"] for row in freed) > 0
    assert len(store.lance_dataset("rollouts").get_fragments()) == 1
    for table, rows in tables.items():
        assert store.read(table, at="before").equals(rows)
    assert show_snapshot(store, "before") == created
    assert created["tables"]["rollouts"]["rows"] == 5
    assert store.read("rollouts").num_rows == 12
    # Compaction kept the order in which rollouts came.
    assert store.read("rollouts", ["run_id"])["run_id"].to_pylist() == ["a"] * 5 + ["b"] * 5 + ["c"] * 2
    assert check(store) == []


def test_every_reference_of_a_snapshot_resolves_in_it(store: LanceStore) -> None:
    collect(store, "a", 2)
    create_snapshot(store, "s")
    prompts = set(store.read("prompts", at="s")["prompt_id"].to_pylist())
    assert set(store.read("rollouts", at="s")["prompt_id"].to_pylist()) <= prompts


def test_names_are_taken_once_and_must_fit(store: LanceStore) -> None:
    create_snapshot(store, "s")
    with pytest.raises(ConfigError, match="already"):
        create_snapshot(store, "s")
    with pytest.raises(ConfigError, match="cannot name"):
        create_snapshot(store, "a/b")


def test_tags_left_by_a_crash_do_not_stand_in_the_way(store: LanceStore) -> None:
    collect(store, "a", 1)
    store.lance_dataset("rollouts").tags.create("s", 1)
    assert check(store) == ["Table rollouts has a tag 's' that is no snapshot."]
    create_snapshot(store, "s")
    assert store.read("rollouts", at="s").num_rows == 1
    assert check(store) == []


def test_listed_oldest_first_with_their_rollouts(store: LanceStore) -> None:
    create_snapshot(store, "z")
    collect(store, "a", 3)
    create_snapshot(store, "a", "three", run_id="a")
    listed = list_snapshots(store)
    assert [(row["name"], row["note"], row["rollouts"], row["run_id"]) for row in listed] == [
        ("z", "", 0, None),
        ("a", "three", 3, "a"),
    ]


def test_diff_counts_new_rows_by_run_environment_and_status(store: LanceStore) -> None:
    collect(store, "a", 2)
    create_snapshot(store, "one")
    collect(store, "b", 3, reward=0.0)
    collect(store, "c", 1, reward=None, passed=None, status="error", error_type="tool")
    create_snapshot(store, "two")
    found = diff_snapshots(store, "one", "two")
    assert found["tables"]["rollouts"] == {"a": 2, "b": 6, "added": 4}
    assert found["rollouts"] == [
        {"run_id": "b", "environment": "calculator", "status": "completed", "rollouts": 3, "mean_reward": 0.0},
        {"run_id": "c", "environment": "calculator", "status": "error", "rollouts": 1, "mean_reward": None},
    ]
    assert found["mean_reward"] == {"a": 1.0, "b": 0.4, "added": 0.0, "shift": -0.6}
    assert diff_snapshots(store, "two", "two")["rollouts"] == []


def test_diff_of_what_has_no_verdicts(store: LanceStore) -> None:
    create_snapshot(store, "none")
    collect(store, "a", 1)
    create_snapshot(store, "some")
    means = diff_snapshots(store, "none", "some")["mean_reward"]
    assert means == {"a": None, "b": 1.0, "added": 1.0, "shift": None}


def test_deleting_is_refused_while_something_refers_to_it(store: LanceStore) -> None:
    for name in ("set", "run", "free"):
        create_snapshot(store, name)
    append_rows(store, "datasets", [{"row_id": "x", "name": "d", "version": 2, "snapshot": "set"}])
    with start_run(store, "build", "r", {"snapshot": "run"}):
        pass
    with pytest.raises(ConfigError, match="used by dataset d@2"):
        delete_snapshot(store, "set")
    with pytest.raises(ConfigError, match="used by run r"):
        delete_snapshot(store, "run")
    delete_snapshot(store, "free")
    assert [row["name"] for row in list_snapshots(store)] == ["set", "run"]
    assert "free" not in store.lance_dataset("rollouts").tags.list()
    for forget in (show_snapshot, delete_snapshot):
        with pytest.raises(VersionNotFound):
            forget(store, "free")
