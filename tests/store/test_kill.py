"""A real writer process is killed and started again: what it acknowledged is there, and nothing is there twice."""

import random
import subprocess
import sys
from pathlib import Path

from rollhouse.store.house import House
from rollhouse.store.maintenance import check
from rollhouse.store.runs import get_run
from rollhouse.tests.rows import rollout_row

ROLLOUTS = 150
ROUNDS = 4


def test_killed_and_resumed_nothing_is_lost_and_nothing_is_twice(house: House) -> None:
    script = Path(__file__).with_name("killed_writer.py")
    command = [sys.executable, str(script), house.uri, str(ROLLOUTS)]
    chance = random.Random(7)
    acknowledged = -1
    for _ in range(ROUNDS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 8)):
                line = writer.stdout.readline().strip()
                assert line.isdigit(), "the writer ended before it was killed"
                acknowledged = max(acknowledged, int(line))
            writer.kill()
        # What it acknowledged between our last look and its death.
        stored = house.read("rollouts", ["rollout_id"])["rollout_id"].to_pylist()
        assert len(stored) == len(set(stored))
        assert {rollout_row("killed", n)["rollout_id"] for n in range(acknowledged + 1)} <= set(stored)
        assert get_run(house, "killed")["status"] == "running"
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("done\n")
    stored = house.read("rollouts", ["rollout_id"])["rollout_id"].to_pylist()
    assert sorted(stored) == sorted(rollout_row("killed", n)["rollout_id"] for n in range(ROLLOUTS))
    found = get_run(house, "killed")
    assert (found["status"], found["incarnation"]) == ("finished", ROUNDS)
    assert check(house) == []
