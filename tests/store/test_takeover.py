"""A writer that slept through a takeover: whenever it wakes, each rollout stays there once."""

from collections.abc import Callable
from typing import Any

import pytest
from rollhouse.base.errors import WriteConflict
from rollhouse.store import lease as leases
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.repair import remove_copies, repair
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import rollout_row, sum_rollout


@pytest.fixture
def take_over(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Another process starts the run again and writes its first rollout: to it, the one that sleeps looks dead."""

    def work() -> None:
        alive = leases.is_alive
        monkeypatch.setattr(leases, "is_alive", lambda state: False)
        run = start_run(store, "collect", "r")
        monkeypatch.setattr(leases, "is_alive", alive)
        with run, RolloutWriter(store, run, journal=False) as other:
            other.add(sum_rollout("r", 0, stop_reason="successor"))

    return work


def sleeper(store: LanceStore) -> RolloutWriter:
    writer = RolloutWriter(store, start_run(store, "collect", "r"), max_age_s=60, journal=False)
    for i in range(2):
        writer.add(sum_rollout("r", i, stop_reason="sleeper"))
    return writer


def rollouts(store: LanceStore) -> list[tuple[int, str]]:
    rows = store.read("rollouts", ["sample_index", "stop_reason"]).to_pylist()
    return sorted((row["sample_index"], row["stop_reason"]) for row in rows)


@pytest.mark.parametrize("moment", ["before the check", "before the commit", "at the commit"])
def test_a_sleeper_never_leaves_a_rollout_twice(
    store: LanceStore, take_over: Callable[[], None], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lance

    writer = sleeper(store)
    write, commit = lance.fragment.write_fragments, lance.LanceDataset.commit

    def write_asleep(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        written = write(*args, **options)
        take_over()
        return written

    def commit_asleep(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        take_over()
        return commit(*args, **options)

    if moment == "before the check":
        take_over()
    elif moment == "before the commit":
        monkeypatch.setattr(lance.fragment, "write_fragments", write_asleep)
    else:
        monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(commit_asleep))
    with pytest.raises(WriteConflict, match="taken over"):
        writer.flush()
    # The successor's rollout came first and stays. What only the sleeper had is kept where its commit went through.
    kept = [(1, "sleeper")] if moment == "at the commit" else []
    assert rollouts(store) == [(0, "successor"), *kept]
    assert check(store) == []
    assert writer.written == 0


def test_a_successor_puts_right_what_a_sleeper_left_that_died_before_it_could(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper(store)
    monkeypatch.setattr(leases, "is_alive", lambda state: False)
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, journal=False) as writer:
        monkeypatch.undo()
        assert run.lease.took_over
        writer.add(sum_rollout("r", 0))
        writer.flush()
        # The sleeper's commit, whose check was before the takeover.
        append_rows(store, "rollouts", [rollout_row("r", i, stop_reason="sleeper") for i in range(2)])
    assert rollouts(store) == [(0, "stop"), (1, "sleeper")]


def test_copies_go_and_the_first_stays_for_every_caller_and_repetition(store: LanceStore) -> None:
    for reason in ("first", "second", "third"):
        append_rows(store, "rollouts", [rollout_row(run, 0, stop_reason=reason) for run in ("r", "s")])
    assert remove_copies(store, "rollouts", "r") == 2
    assert rollouts(store) == [(0, "first"), (0, "first"), (0, "second"), (0, "third")]
    assert remove_copies(store, "rollouts", "r") == 0
    assert "Table rollouts had 2 rows twice; the first of each stays." in repair(store)
    assert rollouts(store) == [(0, "first")] * 2
