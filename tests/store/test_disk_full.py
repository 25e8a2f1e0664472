"""A full disk: the writer reports it, acknowledged rows stay, and nothing is written twice when there is room again."""

import subprocess
import sys
from pathlib import Path

import pytest
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout


@pytest.mark.parametrize(
    ("what", "largest", "max_bytes", "journal"),
    [("the journal", 400_000, 10_000_000, "yes"), ("the table", 40_000, 120_000, "no")],
)
def test_full_while_writing(store: LanceStore, what: str, largest: int, max_bytes: int, journal: str) -> None:
    script = Path(__file__).with_name("full_disk.py")
    command = [sys.executable, script, store.uri, str(largest), str(max_bytes), journal]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    word, refused, acknowledged, _ = ended.stdout.split()
    assert word == "refused" and int(refused) > 3
    stored = store.read("rollouts", ["sample_index"])["sample_index"].to_pylist()
    assert sorted(stored) == list(range(len(stored))) and len(stored) >= int(acknowledged)
    assert get_run(store, "full")["status"] == "failed"
    with start_run(store, "collect", "full") as run, RolloutWriter(store, run) as writer:
        if what == "the journal":
            # All that was taken is there: none of it had been committed.
            assert store.read("rollouts").num_rows == int(refused)
        for number in range(int(refused) + 5):
            writer.add(sum_rollout("full", number))
    assert sorted(store.read("rollouts")["sample_index"].to_pylist()) == list(range(int(refused) + 5))
    assert check(store) == []
