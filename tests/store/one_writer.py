"""One of the writers of test_many_writers. Arguments: the store, the run's name, how many rollouts."""

import sys

from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

store, name = LanceStore.create(sys.argv[1]), sys.argv[2]
with start_run(store, "collect", name) as run, RolloutWriter(store, run, max_bytes=1) as writer:
    for number in range(int(sys.argv[3])):
        text = f"Add {number} and 1."
        writer.add(sum_rollout(name, number, text=text))
        run.metrics(number, {"number": number})
