"""A lease has one holder; a holder that was taken over notices before it writes."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rollhouse.base.errors import WriteConflict
from rollhouse.store import lease as leases
from rollhouse.store.lance_store import LanceStore


def _write_elsewhere(store: LanceStore, name: str, epoch: int, seen: datetime) -> None:
    """The row that a holder on another machine would have left."""
    holder = json.dumps({"machine": "far-away/boot/ns", "pid": 1, "process_start": "1", "token": "t"})
    row = {
        "row_id": f"{name}#{epoch}",
        "name": name,
        "epoch": epoch,
        "event": "taken",
        "holder": holder,
        "created_at": seen,
    }
    store.create_table(leases.LEASES)
    assert leases._insert(store, row)


def test_taking_giving_back_taking_again(store: LanceStore) -> None:
    first = leases.take(store, "maintenance")
    with pytest.raises(WriteConflict, match="maintenance is held by process"):
        leases.take(store, "maintenance")
    first.release()
    first.release()
    with pytest.raises(WriteConflict, match="given back"):
        first.check()
    second = leases.take(store, "maintenance")
    second.check()
    assert (first.epoch, second.epoch) == (1, 2)


def test_names_do_not_meet(store: LanceStore) -> None:
    leases.take(store, "run/a").check()
    leases.take(store, "run/a'b").check()


def test_a_holder_on_another_machine_is_believed_until_it_is_silent_for_long(store: LanceStore) -> None:
    now = datetime.now(UTC)
    _write_elsewhere(store, "run/a", 1, now)
    with pytest.raises(WriteConflict, match="on far-away"):
        leases.take(store, "run/a")
    _write_elsewhere(store, "run/b", 1, now - leases.GIVE_UP - timedelta(seconds=1))
    assert leases.take(store, "run/b").epoch == 2


def test_a_holder_that_was_taken_over_may_not_write(store: LanceStore) -> None:
    sleeper = leases.take(store, "run/a")
    sleeper.check()
    _write_elsewhere(store, "run/a", 2, datetime.now(UTC))
    with pytest.raises(WriteConflict, match="taken over by process 1 on far-away"):
        sleeper.check()


def test_a_sign_of_life_is_written_when_it_is_due(store: LanceStore) -> None:
    lease = leases.take(store, "run/a")
    lease.check()
    assert store.lance_dataset("_leases").count_rows() == 1
    lease.renewed_at -= leases.RENEW + timedelta(seconds=1)
    lease.check()
    lease.check()
    assert store.lance_dataset("_leases").count_rows() == 2


TAKE = """
import sys
from rollhouse.base.errors import WriteConflict
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.lease import take
store = LanceStore.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    take(store, "run/a")
    print("taken", flush=True)
except WriteConflict:
    print("refused", flush=True)
sys.stdin.readline()
"""


def test_of_several_processes_that_find_it_free_one_takes_it(store: LanceStore) -> None:
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, store.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for expected in ({"ready"}, {"taken", "refused"}):
        answers = [taker.stdout.readline().strip() for taker in takers]  # type: ignore[union-attr]
        assert set(answers) == expected
        for taker in takers:
            taker.stdin.write("go\n")  # type: ignore[union-attr]
            taker.stdin.flush()  # type: ignore[union-attr]
    assert answers.count("taken") == 1
    for taker in takers:
        taker.communicate(timeout=60)
    # All of them are gone now, so it can be had again.
    assert leases.take(store, "run/a").epoch == 2
