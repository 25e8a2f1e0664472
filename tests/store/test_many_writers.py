"""Several runs write one house at once, from its very beginning, while it is compacted and cleaned."""

import subprocess
import sys
from pathlib import Path

from rollhouse.store.house import House
from rollhouse.store.maintenance import check, compact, gc
from rollhouse.store.runs import list_runs

RUNS, ROLLOUTS = 4, 12


def test_runs_that_share_a_house_do_not_disturb_each_other(tmp_path: Path) -> None:
    uri = tmp_path / "house"
    script = Path(__file__).with_name("one_writer.py")
    commands = [[sys.executable, script, uri, f"run-{n}", str(ROLLOUTS)] for n in range(RUNS)]
    writers = [subprocess.Popen(command) for command in commands]
    while any(writer.poll() is None for writer in writers):
        house = House.create(uri)
        compact(house)
        gc(house, yes=True)
    assert [writer.returncode for writer in writers] == [0] * RUNS
    house = House.open(uri)
    assert house.read("rollouts").num_rows == house.read("metrics").num_rows == RUNS * ROLLOUTS
    # All of them asked the same questions.
    assert house.read("prompts").num_rows == house.read("tasks").num_rows == ROLLOUTS
    assert [run["status"] for run in list_runs(house)] == ["finished"] * RUNS
    assert check(house) == []
