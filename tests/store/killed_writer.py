"""A writer for kills.py: adds rollouts n, n + 1, … of the run `killed` until it is killed or has added up to the last.

Prints `added N` when add(N) has returned and `flushed N` when N and all before it are acknowledged. It starts a little before the end of
what the store has, so that some come a second time, and has upkeep run all the time. Arguments: the store, the last number.
"""

import random
import sys

from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.upkeep import UpkeepPolicy
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

store, last = LanceStore.open(sys.argv[1]), int(sys.argv[2])
often = UpkeepPolicy(fragments=6, look_every=3, versions=120)
print("started", flush=True)
with (
    start_run(store, "collect", "killed") as run,
    RolloutWriter(store, run, max_bytes=100_000, max_age_s=0.02, policy=often) as writer,
):
    chance = random.Random(run.incarnation)
    for number in range(max(0, store.lance_dataset("rollouts").count_rows() - 20), last + 1):
        text = f"Add {number // 8} and 1."
        writer.add(sum_rollout("killed", number, text=text))
        print("added", number, flush=True)
        if chance.random() < 0.1:
            writer.flush()
            print("flushed", number, flush=True)
    writer.flush()
    print("flushed", last, flush=True)
