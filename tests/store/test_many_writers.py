"""Several runs write one store at once, from its very beginning, while it is compacted and cleaned."""

import subprocess
import sys
from pathlib import Path

from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check, compact, gc
from rollhouse.store.runs import list_runs

RUNS, ROLLOUTS = 4, 12


def test_runs_that_share_a_store_do_not_disturb_each_other(tmp_path: Path) -> None:
    uri = tmp_path / "store"
    script = Path(__file__).with_name("one_writer.py")
    commands = [[sys.executable, script, uri, f"run-{n}", str(ROLLOUTS)] for n in range(RUNS)]
    writers = [subprocess.Popen(command) for command in commands]
    while any(writer.poll() is None for writer in writers):
        store = LanceStore.create(uri)
        compact(store)
        gc(store, yes=True)
    assert [writer.returncode for writer in writers] == [0] * RUNS
    store = LanceStore.open(uri)
    assert store.read("rollouts").num_rows == store.read("metrics").num_rows == RUNS * ROLLOUTS
    # All of them have the same prompts.
    assert store.read("prompts").num_rows == store.read("tasks").num_rows == ROLLOUTS
    assert [run["status"] for run in list_runs(store)] == ["finished"] * RUNS
    assert check(store) == []
