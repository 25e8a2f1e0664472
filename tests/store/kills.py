"""Kills a real writer process at random moments, many times over, and looks at the store after each."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.runs import get_run
from rollhouse.tests.rows import sum_rollout

_SCRIPT = Path(__file__).with_name("killed_writer.py")


def kill_often(
    store: LanceStore, kills: int, seed: int, on_kill: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Starts and kills the writer `kills` times, then lets it finish. Raises AssertionError when a rollout is lost or there twice.

    Returns how many rollouts were added, how many of them were acknowledged before a kill, how many came back from the journal and how
    many kills hit before the writer had started its run.
    """
    chance = random.Random(seed)
    added = flushed = -1
    early = from_journal = 0
    for number in range(kills):
        with subprocess.Popen([sys.executable, _SCRIPT, store.uri, "10000000"], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            # Importing takes most of a start, and a kill there shows nothing.
            started = writer.stdout.readline()
            assert started == b"started\n"
            time.sleep(chance.random() * 1.0)
            writer.kill()
            output = writer.stdout.read().decode().split("\n")[:-1]
        found = [line.split() for line in output]
        before = _stored(store)
        assert set(range(flushed + 1)) <= before, "an acknowledged rollout is gone"
        if found:
            # It went on after it had brought in the journal of the one before.
            assert set(range(added + 1)) <= before, "a rollout that was added is gone"
        early += not found
        added = max([added, *(int(value) for word, value in found if word == "added")])
        flushed = max([flushed, *(int(value) for word, value in found if word == "flushed")])
        assert set(range(flushed + 1)) <= before, "an acknowledged rollout is not there"
        from_journal += len(set(range(added + 1)) - before)
        if on_kill is not None:
            on_kill(number)
    # One more may have been taken without its writer having lived to say so.
    last = max([added, *_stored(store)]) + 30
    subprocess.run([sys.executable, _SCRIPT, store.uri, str(last)], stdout=subprocess.DEVNULL, check=True)
    assert _stored(store) == set(range(last + 1))
    assert check(store) == []
    assert get_run(store, "killed")["status"] == "finished"
    return {"added": last + 1, "acknowledged": flushed + 1, "from_journal": from_journal, "early": early}


def _stored(store: LanceStore) -> set[int]:
    """The numbers in the store. Raises AssertionError for one that is there twice."""
    rows = store.read("rollouts").select(["rollout_id", "sample_index"]).to_pylist()
    numbers = [row["sample_index"] for row in rows]
    assert len(set(numbers)) == len(numbers), "a rollout is there twice"
    for row in rows[-3:]:
        text = f"Add {row['sample_index'] // 8} and 1."
        assert row["rollout_id"] == sum_rollout("killed", row["sample_index"], text=text).rollout_id
    return set(numbers)
