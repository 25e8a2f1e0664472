"""A writer for test_disk_full: writes until its files may not grow, prints its progress, and ends with the error.

Arguments: the store, the largest file in bytes, max_bytes of the writer, whether to keep a journal.
"""

import random
import resource
import sys

from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

store, largest, max_bytes, journal = (
    LanceStore.open(sys.argv[1]),
    int(sys.argv[2]),
    int(sys.argv[3]),
    sys.argv[4] == "yes",
)
chance = random.Random(0)
with (
    start_run(store, "collect", "full") as run,
    RolloutWriter(store, run, max_bytes=max_bytes, max_age_s=float("inf"), journal=journal) as writer,
):
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    for number in range(1000):
        tokens = [chance.randrange(150_000) for _ in range(200 + number)]
        columns = {"token_ids": tokens, "loss_mask": [0] * len(tokens), "logprobs": []}
        try:
            writer.add(sum_rollout("full", number, **columns))
        except OSError as error:
            print("refused", number, writer.written, type(error).__name__, flush=True)
            raise
