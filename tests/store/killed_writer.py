"""A writer for test_kill: collects rollouts 0, 1, 2, … of a run, says which are acknowledged, until it is killed or done.

Arguments: the house, how many rollouts to collect.
"""

import random
import sys
import time

from rollhouse.store.house import House
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import prompt_row, prompt_tokens_row, rollout_row, task_row

house = House.open(sys.argv[1])
with (
    start_run(house, "collect", "killed") as run,
    RolloutWriter(house, run, max_bytes=30_000, max_age_s=0.02) as writer,
):
    chance = random.Random(run.incarnation)
    for number in range(int(sys.argv[2])):
        writer.add(rollout_row("killed", number), prompt_row(), task_row(), prompt_tokens_row())
        if chance.random() < 0.3:
            writer.flush()
            print(number, flush=True)
        time.sleep(0.002)
    writer.flush()
    print("done", flush=True)
