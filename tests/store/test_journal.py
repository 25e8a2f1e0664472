"""The journal: what was given to a writer outlives it, and comes in once."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rollhouse.store import journal
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.repair import repair
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

# Adds rollouts that no flush commits, and dies.
DIES = """
import os, signal, sys
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import prompt_row, prompt_tokens_row, rollout_row, task_row, sum_rollout
store = LanceStore.open(sys.argv[1])
writer = RolloutWriter(store, start_run(store, "collect", "r"), max_age_s=float("inf"))
for i in range(3):
    writer.add(sum_rollout("r", i))
    if i == int(sys.argv[2]):
        writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def die(store: LanceStore, flush_after: int = -1) -> None:
    subprocess.run([sys.executable, "-c", DIES, store.uri, str(flush_after)], check=False)


def numbers(store: LanceStore) -> list[int]:
    return sorted(store.read("rollouts", ["sample_index"])["sample_index"].to_pylist())


def journals(store: LanceStore) -> list[Path]:
    return sorted(Path(store.uri, "_journal").rglob("*.rows"))


@pytest.mark.parametrize("flush_after", [-1, 1])
def test_what_a_killed_writer_had_not_committed_comes_in_at_the_next_start(store: LanceStore, flush_after: int) -> None:
    die(store, flush_after)
    assert numbers(store) == list(range(flush_after + 1))
    with start_run(store, "collect", "r") as run:
        assert numbers(store) == [0, 1, 2]
        with RolloutWriter(store, run) as writer:
            for i in range(4):
                writer.add(sum_rollout("r", i))
    assert (writer.written, writer.skipped) == (1, 3)
    assert numbers(store) == [0, 1, 2, 3]
    for table in ("prompts", "prompt_tokens", "tasks"):
        assert store.read(table).num_rows == 1
    assert not Path(store.uri, "_journal").exists()
    assert check(store) == []


def test_check_names_a_journal_without_a_writer_and_repair_inserts_it(store: LanceStore) -> None:
    die(store)
    assert len(check(store)) == 1 and "Run r left 3 rollouts in its journal" in check(store)[0]
    assert repair(store) == ["Run r had 3 rollouts in its journal: 3 were new and are in the store now."]
    assert numbers(store) == [0, 1, 2]
    assert check(store) == repair(store) == []


def test_the_journal_of_a_living_writer_is_left_alone(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, max_age_s=60) as writer:
        writer.add(sum_rollout("r"))
        assert journal.waiting(store) == {"r": 1}
        assert check(store) == repair(store) == []
        assert numbers(store) == []
        writer.flush()
        assert journal.waiting(store) == {}
    assert not journals(store)


def test_a_journal_cut_anywhere_gives_the_rows_before_the_cut(store: LanceStore) -> None:
    die(store)
    (path,) = journals(store)
    whole = path.read_bytes()
    seen = []
    for length in sorted({*range(0, len(whole), 1009), len(whole)}, reverse=True):
        os.truncate(path, length)
        seen.append(journal.waiting(store).get("r", 0))
    assert seen[0] == 3 and seen[-1] == 0 and seen == sorted(seen, reverse=True)
    assert set(seen) == {0, 1, 2, 3}


def test_a_damaged_frame_ends_the_journal(store: LanceStore) -> None:
    die(store)
    (path,) = journals(store)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert journal.waiting(store) == {"r": 2}


def test_a_journal_of_an_older_version_with_fewer_columns_comes_in(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rollhouse.store.tables import TABLES

    now = TABLES["rollouts"]
    columns = tuple(column for column in now.columns if column.name not in ("verify_s", "gaps"))
    monkeypatch.setitem(TABLES, "rollouts", replace(now, columns=columns))
    run = start_run(store, "collect", "r")
    writer = RolloutWriter(store, run, max_age_s=60)
    writer.add(sum_rollout("r"))
    writer._journal.close()  # type: ignore[union-attr]
    monkeypatch.undo()
    assert journal.replay(store, "r") == 1
    assert store.read("rollouts")["gaps"].to_pylist() == [None]
    writer._abandon()


def test_without_a_journal_nothing_is_left_behind(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, max_age_s=60, journal=False) as writer:
        writer.add(sum_rollout("r"))
        assert not journals(store)
    assert numbers(store) == [0]


JUDGED = DIES.replace(
    '    writer.add(sum_rollout("r", i))',
    "    from rollhouse.store.task import Score\n"
    "    writer.add(sum_rollout('r', i, scores=[Score(float(i), False, 'raw', '1')]))",
)


@pytest.mark.parametrize("flush_after", [-1, 1])
def test_verdicts_that_came_with_rollouts_come_in_with_them(store: LanceStore, flush_after: int) -> None:
    assert JUDGED != DIES
    subprocess.run([sys.executable, "-c", JUDGED, store.uri, str(flush_after)], check=False)
    assert store.read("scores").num_rows == len(numbers(store)) == flush_after + 1
    with start_run(store, "collect", "r"):
        pass
    assert numbers(store) == [0, 1, 2] and store.read("scores")["reward"].to_pylist() == [0.0, 1.0, 2.0]
    rollouts = {row["rollout_id"] for row in store.read("rollouts").to_pylist()}
    assert rollouts == {row["rollout_id"] for row in store.read("scores").to_pylist()}
