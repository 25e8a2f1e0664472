"""Tables: made, written, read, at a time and at a snapshot, by Lance and by LanceDB."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from rollhouse.base.errors import SchemaMismatch, StoreNotFound, VersionNotFound, WriteConflict
from rollhouse.store.appending import append_rows, insert_if_absent, to_arrow
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.tables import TABLES
from rollhouse.tests.rows import rollout_row, sum_rollout


def test_create_makes_every_table_and_leaves_what_is_there(store: LanceStore) -> None:
    append_rows(store, "rollouts", [rollout_row("r")])
    again = LanceStore.create(store.uri)
    assert all(again.has_table(table) for table in TABLES)
    assert again.read("rollouts").num_rows == 1


def test_create_completes_a_store_whose_making_was_cut_short(store: LanceStore) -> None:
    import shutil

    shutil.rmtree(store.table_uri("prompts"))
    LanceStore.create(store.uri)
    assert store.read("prompts").num_rows == 0


def test_makers_that_come_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    def make_and_write(number: int) -> None:
        append_rows(LanceStore.create(tmp_path / "store"), "rollouts", [rollout_row("r", number)])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(make_and_write, range(6)))
    assert LanceStore.open(tmp_path / "store").read("rollouts").num_rows == 6
    assert not list((tmp_path / "store").glob(".making-*"))


def test_open_refuses_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="no store at"):
        LanceStore.open(tmp_path)


def test_a_row_reads_back_as_written(store: LanceStore) -> None:
    row = rollout_row("r", reward=0.5, gaps=["no_task"])
    append_rows(store, "rollouts", [row])
    read = store.read("rollouts").to_pylist()[0]
    assert {name: read[name] for name in row} == row
    assert read["temperature"] is None


def test_unknown_and_unfit_columns_are_named(store: LanceStore) -> None:
    with pytest.raises(SchemaMismatch, match="no column 'colour'"):
        append_rows(store, "rollouts", [rollout_row("r", colour="red")])
    with pytest.raises(SchemaMismatch, match="does not fit table rollouts"):
        append_rows(store, "rollouts", [rollout_row("r", reward="high")])
    with pytest.raises(SchemaMismatch, match="does not fit table rollouts"):
        append_rows(store, "rollouts", [rollout_row("r", error_message="half a pair: \ud800")])
    with pytest.raises(SchemaMismatch, match="no column 'colour'"):
        append_rows(store, "rollouts", pa.table({"colour": ["red"]}))


def test_arrow_rows_take_the_schema_of_the_table(store: LanceStore) -> None:
    large = pa.table({"name": pa.array(["a"], pa.large_string()), "note": pa.array(["b"], pa.large_string())})
    append_rows(store, "snapshots", large)
    assert store.read("snapshots").schema.field("name").type == pa.string()


def test_batches_have_the_requested_size_and_hold_every_row_in_order(store: LanceStore) -> None:
    rows = [rollout_row("r", i, token_ids=[7] * 1000, loss_mask=[0] * 1000, logprobs=[]) for i in range(100)]
    append_rows(store, "rollouts", rows)
    append_rows(store, "rollouts", [rollout_row("r", 100)])
    read = list(store.batches("rollouts", ["sample_index", "token_ids"], max_bytes=40_000))
    assert len(read) >= 10 and max(batch.num_rows for batch in read) <= 10
    assert [i for batch in read for i in batch["sample_index"].to_pylist()] == list(range(101))
    some = store.batches("rollouts", ["sample_index"], filter="sample_index > 98")
    assert [i for batch in some for i in batch["sample_index"].to_pylist()] == [99, 100]


def test_insert_if_absent_twice_is_once(store: LanceStore) -> None:
    rows = [rollout_row("r", i) for i in (0, 1, 1)]
    assert insert_if_absent(store, "rollouts", rows) == 2
    assert insert_if_absent(store, "rollouts", rows) == 0
    assert store.read("rollouts").num_rows == 2


def test_lancedb_reads_and_appends_the_same_table(store: LanceStore) -> None:
    append_rows(store, "rollouts", [rollout_row("r", 0)])
    table = store.lancedb().open_table("rollouts")
    assert table.to_arrow()["rollout_id"].to_pylist() == [sum_rollout("r", 0).rollout_id]
    table.add(to_arrow("rollouts", [rollout_row("r", 1)]))
    append_rows(store, "rollouts", [rollout_row("r", 2)])
    wanted = {sum_rollout("r", i).rollout_id for i in range(3)}
    assert set(store.read("rollouts")["rollout_id"].to_pylist()) == wanted
    assert store.lancedb().open_table("rollouts").count_rows() == 3
    assert store.lancedb().open_table("rollouts").count_rows("sample_index > 0") == 2


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_at_a_time_reads_what_was_there_then(store: LanceStore, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        append_rows(store, "rollouts", [rollout_row("r", 0)])
        then = datetime.now(UTC)
        append_rows(store, "rollouts", [rollout_row("r", 1)])
        assert store.read("rollouts", at=then.isoformat()).num_rows == 1
        assert store.read("rollouts", at=then.replace(tzinfo=None).isoformat()).num_rows == 1
        assert store.read("rollouts", at=datetime.now(UTC).isoformat()).num_rows == 2
    finally:
        monkeypatch.undo()
        time.tzset()


def test_at_names_what_is_wrong(store: LanceStore) -> None:
    with pytest.raises(VersionNotFound, match="no snapshot 'nope'"):
        store.read("rollouts", at="nope")
    with pytest.raises(VersionNotFound, match="did not exist"):
        store.read("rollouts", at="2001-01-01")


def test_a_time_whose_versions_were_cleaned_up_is_refused_not_answered_by_an_older_one(store: LanceStore) -> None:
    from datetime import timedelta

    from rollhouse.store.maintenance import gc

    append_rows(store, "rollouts", [rollout_row("r", 0)])
    create_snapshot(store, "one")
    append_rows(store, "rollouts", [rollout_row("r", 1)])
    then = datetime.now(UTC).isoformat()
    append_rows(store, "rollouts", [rollout_row("r", 2)])
    gc(store, yes=True, retention=timedelta(0))
    with pytest.raises(VersionNotFound, match="cleaned up"):
        store.read("rollouts", at=then)
    assert store.read("rollouts", at="one").num_rows == 1


def test_a_store_of_an_older_version_gains_its_columns_and_its_snapshots_read_as_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = TABLES["rollouts"]
    columns = tuple(column for column in now.columns if column.name not in ("gaps", "verify_s"))
    with monkeypatch.context() as older:
        older.setitem(TABLES, "rollouts", replace(now, columns=columns))
        store = LanceStore.create(tmp_path / "store")
        append_rows(store, "rollouts", TABLES["rollouts"].batch([sum_rollout("r", 0)]))
    assert check(store) == ["Table rollouts lacks the column gaps.", "Table rollouts lacks the column verify_s."]
    create_snapshot(store, "old")
    assert store.read("rollouts", ["gaps"]).to_pylist() == [{"gaps": None}]
    store = LanceStore.create(tmp_path / "store")
    append_rows(store, "rollouts", [rollout_row("r", 1, gaps=["no_task"])])
    assert store.read("rollouts", ["sample_index", "gaps"]).to_pylist() == [
        {"sample_index": 0, "gaps": None},
        {"sample_index": 1, "gaps": ["no_task"]},
    ]
    for names in (["verify_s", "sample_index", "gaps"], ["gaps"], None):
        old = store.read("rollouts", names, at="old")
        assert old.num_rows == 1 and old["gaps"].to_pylist() == [None]
        assert old.column_names == names or names is None


def test_a_store_made_before_retries_were_counted_takes_and_gives_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = TABLES["rollouts"]
    columns = tuple(column for column in now.columns if column.name != "n_retries")
    with monkeypatch.context() as older:
        older.setitem(TABLES, "rollouts", replace(now, columns=columns))
        append_rows(LanceStore.create(tmp_path / "store"), "rollouts", TABLES["rollouts"].batch([sum_rollout("r", 0)]))
    store = LanceStore.open(tmp_path / "store")
    assert store.read("rollouts", ["n_retries"]).to_pylist() == [{"n_retries": None}], "read as it is"
    store = LanceStore.create(tmp_path / "store")
    assert insert_if_absent(store, "rollouts", [rollout_row("r", 0), rollout_row("r", 1, n_retries=3)]) == 1
    assert store.read("rollouts")["n_retries"].to_pylist() == [None, 3]


def test_no_index_is_made_on_a_key(store: LanceStore) -> None:
    # An index on the key makes concurrent insert-if-absent insert twice.
    for table in TABLES:
        assert store.lance_dataset(table).describe_indices() == []


def test_store_location_prefers_the_option_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from rollhouse.store.lance_store import store_location

    monkeypatch.setitem(os.environ, "ROLLHOUSE_STORE", "elsewhere")
    assert store_location("here") == "here"
    assert store_location() == "elsewhere"
    monkeypatch.delenv("ROLLHOUSE_STORE")
    assert store_location() == "rollouts"


def test_a_store_opened_at_a_snapshot_reads_what_was_there_and_writes_nothing(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path)
    append_rows(store, "metrics", [{"row_id": "a", "name": "x", "value": 1.0}])
    create_snapshot(store, "then")
    append_rows(store, "metrics", [{"row_id": "b", "name": "x", "value": 2.0}])
    now = datetime.now(UTC).isoformat()
    for at, keys in (("then", ["a"]), (now, ["a", "b"]), (None, ["a", "b"])):
        assert LanceStore.open(tmp_path, at).read("metrics")["row_id"].to_pylist() == keys
    with pytest.raises(WriteConflict):
        append_rows(LanceStore.open(tmp_path, "then"), "metrics", [{"row_id": "c"}])
    with pytest.raises(VersionNotFound):
        LanceStore.open(tmp_path, "never")
