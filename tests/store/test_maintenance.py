"""compact, gc and check."""

import os
from datetime import timedelta

import pytest
from rollhouse.base.errors import WriteConflict
from rollhouse.store import lease as leases
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check, compact, gc
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import rollout_row, sum_rollout


@pytest.fixture
def used(store: LanceStore) -> LanceStore:
    with start_run(store, "collect", "a") as run, RolloutWriter(store, run, max_bytes=1) as writer:
        for i in range(6):
            writer.add(sum_rollout("a", i))
    return store


def test_compact_joins_fragments_and_reports(used: LanceStore) -> None:
    before = used.read("rollouts")
    report = {row["table"]: row for row in compact(used)}
    assert report["rollouts"] == {"table": "rollouts", "fragments_before": 6, "fragments_after": 1}
    assert used.read("rollouts").equals(before)


def test_compacting_beside_an_open_writer_loses_nothing(store: LanceStore) -> None:
    with start_run(store, "collect", "a") as run, RolloutWriter(store, run, max_bytes=1) as writer:
        for i in range(12):
            writer.add(sum_rollout("a", i))
            if i % 4 == 3:
                compact(store)
                gc(store, yes=True)
    assert store.read("rollouts")["sample_index"].to_pylist() == list(range(12))
    assert check(store) == []


def test_gc_only_prints_what_it_would_free_by_default(used: LanceStore) -> None:
    compact(used)
    versions = len(used.lance_dataset("rollouts").versions())
    would = gc(used, retention=timedelta(0))
    assert len(used.lance_dataset("rollouts").versions()) == versions
    assert sum(row["bytes"] for row in gc(used)) == 0, "nothing is older than an hour"
    did = gc(used, yes=True, retention=timedelta(0))
    # The leases of gc itself are rows of the store's own table.
    assert [row for row in did if row["table"] != "_leases"] == [row for row in would if row["table"] != "_leases"]
    assert len(used.lance_dataset("rollouts").versions()) == 1
    assert used.read("rollouts").num_rows == 6


def test_one_maintenance_at_a_time(used: LanceStore) -> None:
    lease = leases.take(used, "maintenance")
    for work in (compact, gc):
        with pytest.raises(WriteConflict, match="maintenance is held"):
            work(used)
    lease.release()
    compact(used)


def test_check_finds_nothing_in_a_sound_store(used: LanceStore) -> None:
    create_snapshot(used, "s")
    assert check(used) == []


def test_check_names_a_row_that_is_there_twice(used: LanceStore) -> None:
    append_rows(used, "rollouts", [rollout_row("a", 0)])
    twice = sum_rollout("a", 0).rollout_id
    assert check(used) == [f"Table rollouts has 1 keys more than once, {twice!r} among them."]


def test_check_names_references_that_do_not_resolve(used: LanceStore) -> None:
    append_rows(used, "rollouts", [rollout_row("ghost", 0, text="Add 5 and 5.")])
    append_rows(used, "scores", [{"row_id": "s", "rollout_id": "lost"}])
    problems = check(used)
    assert any(problem.startswith("1 values of rollouts.prompt_id are not in prompts") for problem in problems)
    assert any("rollouts.run_id are not in run_events, 'ghost'" in problem for problem in problems)
    assert any("scores.rollout_id are not in rollouts, 'lost'" in problem for problem in problems)


def test_check_names_a_dataset_row_that_its_snapshot_lacks(used: LanceStore) -> None:
    create_snapshot(used, "s")
    rows = [{"rollout_id": "later", "task_id": None, "branch": 0, "weight": 1.0, "role": "demo", "row": 0}]
    append_rows(used, "datasets", [{"row_id": "d", "name": "d", "version": 1, "snapshot": "s", "rows": rows}])
    assert check(used) == ["Dataset d@1 refers to 1 rollouts that its snapshot does not hold."]


def test_check_names_a_missing_table_and_a_lost_tag(used: LanceStore) -> None:
    create_snapshot(used, "s")
    used.lance_dataset("scores").tags.delete("s")
    assert check(used) == ["Snapshot 's' has lost its tag on scores; a gc may take its rows."]
    os.rename(used.table_uri("scores"), used.table_uri("moved"))
    assert check(used) == ["Table scores is missing."]
