"""Damage on disk is seen, named by table, file and rows, and cut out."""

import random
import shutil
from pathlib import Path

import pytest
from rollhouse.base.errors import DamagedStore
from rollhouse.cli.main import app
from rollhouse.store import hashes
from rollhouse.store.damage import damage_of, salvage
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check, compact
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout
from typer.testing import CliRunner


@pytest.fixture
def used(store: LanceStore) -> LanceStore:
    """A store with four data files of rollouts."""
    with start_run(store, "collect", "a") as run, RolloutWriter(store, run, max_bytes=1) as writer:
        for i in range(4):
            writer.add(sum_rollout("a", i))
        run.metrics(1, {"train/reward": 0.5})
    return store


def files(store: LanceStore, table: str) -> list[Path]:
    return sorted((Path(store.table_uri(table)) / "data").iterdir())


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_every_flipped_bit_is_seen(used: LanceStore) -> None:
    chance = random.Random(7)
    for table in ("rollouts", "prompts", "tasks", "metrics", "run_events"):
        dataset = used.lance_dataset(table)
        for _ in range(16):
            path = chance.choice(files(used, table))
            bit = chance.randrange(path.stat().st_size * 8)
            flip(path, bit)
            [damage] = damage_of(used, table, dataset)
            assert damage.file == path.name and f"Table {table} is damaged: data/{path.name}, with row" in str(damage)
            flip(path, bit)
    assert check(used) == check(used, deep=True) == []


@pytest.mark.parametrize("what", ["truncated", "gone", "flipped"])
def test_check_names_table_file_and_rows(used: LanceStore, what: str) -> None:
    third = hashes.files_of(used.lance_dataset("rollouts").get_fragments())[2]
    path = hashes.data_path(used, "rollouts", third)
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    elif what == "gone":
        path.unlink()
    else:
        flip(path, 999)
    for deep in (False, True):
        [problem] = check(used, deep=deep)
        assert "rollouts" in problem and third in problem
        assert what == "gone" or f"data/{third}, with row 2," in problem


def test_files_of_an_older_version_get_their_hash_from_the_first_check(used: LanceStore) -> None:
    shutil.rmtree(Path(used.uri) / "_hashes")
    assert check(used) == []
    flip(files(used, "rollouts")[0], 801)
    assert ["is damaged" in problem for problem in check(used)] == [True]


def test_a_line_of_the_hashes_that_is_damaged_itself_raises_no_alarm(used: LanceStore) -> None:
    log = Path(used.uri) / "_hashes" / "rollouts.log"
    flip(log, 100)
    log.write_bytes(log.read_bytes()[:-20])
    assert len(hashes.known(used, "rollouts")) == 2
    assert check(used) == [] and len(hashes.known(used, "rollouts")) == 4


def test_damage_is_not_copied_into_a_file_that_looks_whole(used: LanceStore) -> None:
    flip(files(used, "rollouts")[1], 801)
    with pytest.raises(DamagedStore, match=r"data/.* is not what was written"):
        compact(used)


def test_compaction_and_growth_keep_the_hashes(used: LanceStore) -> None:
    compact(used)
    shutil.rmtree(Path(used.table_uri("rollouts")) / "_hashes", ignore_errors=True)
    assert set(hashes.files_of(used.lance_dataset("rollouts").get_fragments())) <= set(hashes.known(used, "rollouts"))


def test_salvage_keeps_the_rows_of_all_whole_files(used: LanceStore) -> None:
    create_snapshot(used, "s1")
    before = used.lance_dataset("rollouts").version
    names = hashes.files_of(used.lance_dataset("rollouts").get_fragments())
    flip(hashes.data_path(used, "rollouts", names[1]), 801)
    result = CliRunner().invoke(app, ["check", "--salvage", "--store", used.uri])
    assert f"data/{names[1]}, with row 1," in result.stderr and "left out of the new version" in result.stderr
    assert used.read("rollouts", ["sample_index"])["sample_index"].to_pylist() == [0, 2, 3]
    assert used.lance_dataset("rollouts").version > before
    assert all("Snapshot 's1'" in problem for problem in check(used)), "what a snapshot names stays as it was"
    assert list(salvage(used)) == []


def test_a_truncated_manifest_names_its_table_and_is_gone_back_from(used: LanceStore) -> None:
    newest = sorted((Path(used.table_uri("metrics")) / "_versions").glob("*.manifest"))[0]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    [problem] = check(used)
    assert problem.startswith(f"Table metrics of {used.uri} cannot be opened: ") and ".rs" not in problem
    result = CliRunner().invoke(app, ["sql", "select * from metrics", "--store", used.uri])
    assert result.exit_code == 1 and "Table metrics" in result.stderr and "--salvage" in result.stderr
    assert any("metrics" in line and newest.name in line for line in salvage(used))
    assert check(used) == [] and used.read("rollouts").num_rows == 4


def test_a_garbled_tag_names_its_table(used: LanceStore) -> None:
    create_snapshot(used, "s1")
    (Path(used.table_uri("tasks")) / "_refs" / "tags" / "s1.json").write_text("{garbled")
    [problem] = check(used)
    assert problem.startswith("Table tasks has a tag that cannot be read")
