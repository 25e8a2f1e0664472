"""Automatic upkeep: many small commits stay few fragments and few versions, and no row and no reader is lost."""

import pickle
from datetime import timedelta
from pathlib import Path

import pytest
from rollhouse.store import lease as leases
from rollhouse.store import upkeep
from rollhouse.store.appending import append_rows, insert_if_absent
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.runs import Run, start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.upkeep import UpkeepPolicy, maintain
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import rollout_row, sum_rollout

OFTEN = UpkeepPolicy(fragments=5, look_every=2, versions=12)


def collect(store: LanceStore, run: Run, numbers: range, policy: UpkeepPolicy = OFTEN) -> None:
    with RolloutWriter(store, run, max_bytes=1, policy=policy) as writer:
        for i in numbers:
            writer.add(sum_rollout("r", i))


def numbers(store: LanceStore) -> list[int]:
    return sorted(store.read("rollouts", ["sample_index"])["sample_index"].to_pylist())


def test_many_small_commits_stay_few_fragments(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(40))
        assert len(store.lance_dataset("rollouts").get_fragments()) < 10
        for step in range(20):
            run.metrics(step, {"loss": 1.0})
        run.upkeep.wait()
        assert len(store.lance_dataset("metrics").get_fragments()) < 10
    assert numbers(store) == list(range(40))
    assert check(store) == []


def test_versions_are_thinned_and_no_reader_or_snapshot_is_cut_off(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_NEWEST", 4)
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(7))
        create_snapshot(store, "early")
        readers = {}
        for start in range(7, 40, 3):
            collect(store, run, range(start, start + 3))
            readers[start + 3] = store.lance_dataset("rollouts")
    assert len(store.lance_dataset("rollouts").versions()) < 36 < store.lance_dataset("rollouts").version
    assert all(reader.to_table().num_rows == rows for rows, reader in readers.items())
    assert store.read("rollouts", at="early").num_rows == 7
    assert numbers(store) == list(range(40))
    assert check(store) == []


def test_old_versions_go_when_there_are_many(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_NEWEST", 1)
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(12), policy=UpkeepPolicy(look_every=1000))
        maintain(store, UpkeepPolicy(fragments=5, versions=3, retention=timedelta(0)))
    assert len(store.lance_dataset("rollouts").versions()) == 1
    assert numbers(store) == list(range(12))


def test_who_finds_maintenance_taken_goes_on_writing(store: LanceStore) -> None:
    lease = leases.take(store, "maintenance")
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(12))
        assert len(store.lance_dataset("rollouts").get_fragments()) == 12
        lease.release()
        collect(store, run, range(12, 14))
    assert len(store.lance_dataset("rollouts").get_fragments()) < 5
    assert numbers(store) == list(range(14))


def test_a_failing_upkeep_is_logged_and_the_writer_goes_on(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upkeep, "join_fragments", full)
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(12))
    assert numbers(store) == list(range(12))
    assert "rollhouse compact" in caplog.text


def test_fragments_grow_tier_by_tier(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TIERS", (10, 100))
    for i in range(30):
        append_rows(store, "rollouts", [rollout_row("r", 4 * i + j) for j in range(4)])
    upkeep.join_fragments(store, "rollouts", 5)
    # Three and three of four rows make ten of twelve, and these make one.
    assert upkeep._sizes(store.lance_dataset("rollouts")) == [120]
    append_rows(store, "rollouts", [rollout_row("r", 120 + j) for j in range(4)])
    upkeep.join_fragments(store, "rollouts", 5)
    assert upkeep._sizes(store.lance_dataset("rollouts")) == [120, 4]
    assert numbers(store) == list(range(124))


def test_a_large_table_has_indices_but_never_one_on_its_key(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(20), policy=UpkeepPolicy(fragments=5, look_every=1000, index_rows=10))
        maintain(store, run.upkeep.policy)
        collect(store, run, range(20, 40), policy=UpkeepPolicy(fragments=5, look_every=1000, index_rows=10))
        maintain(store, run.upkeep.policy)
    dataset = store.lance_dataset("rollouts")
    assert {name for index in dataset.describe_indices() for name in index.field_names} == {
        "run_id",
        "step",
        "task_id",
        "status",
    }
    assert dataset.count_rows("run_id = 'r'") == 40
    assert insert_if_absent(store, "rollouts", [rollout_row("r", i) for i in (0, 40)]) == 1
    table = store.lancedb().open_table("rollouts")
    assert table.count_rows("run_id = 'r'") == 41
    assert check(store) == []


def test_a_run_is_picklable_with_its_upkeep(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(12))
        again: Run = pickle.loads(pickle.dumps(run))
        again.upkeep.wrote("rollouts")
        again.lease.check()


@pytest.mark.system
def test_two_thousand_small_commits_leave_a_small_store(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run:
        collect(store, run, range(2000), policy=UpkeepPolicy())
    dataset = store.lance_dataset("rollouts")
    assert len(dataset.get_fragments()) < 250
    manifests = list(Path(store.table_uri("rollouts"), "_versions").glob("*.manifest"))
    assert len(manifests) < 1400 and sum(path.stat().st_size for path in manifests) < 40e6
    assert numbers(store) == list(range(2000))
    assert check(store) == []
