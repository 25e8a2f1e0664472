"""The driver of two_hosts.py's pushes, on a host with a Ray node of a cluster of two: prints seconds as a line of JSON."""

import json
import sys
import time
from contextlib import ExitStack, closing
from typing import Any

from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray
from rollhouse.policies.engines.placement import place
from rollhouse.policies.engines.restarting import restarting_vllm
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.group import LearnerGroup
from rollhouse.train.grpo.learner.settings import LearnerSettings
from rollhouse.train.grpo.sync.sync import open_sync
from weight_push import weight_bytes


def main(model: str, rounds: int) -> dict[str, Any]:
    """Seconds of each push but the first, which makes the file."""
    from pathlib import Path

    with ExitStack() as opened:
        ensure_ray(address="auto", num_nodes=2, wait_s=120)
        opened.callback(shutdown_ray)
        placement = opened.enter_context(closing(place(2, 2, num_nodes=2)))
        engine = restarting_vllm(model, 1, max_model_len=128, data_parallel_size=2, placed=placement.engines)
        opened.callback(engine.close)
        settings = LearnerSettings(PolicyConfig(model_name=model))
        learner = opened.enter_context(LearnerGroup(model, settings, ranks=2, placement=placement.learners))
        sync = opened.enter_context(closing(open_sync("auto", learner, engine)))
        seconds = []
        for version in range(1, rounds + 2):
            begin = time.perf_counter()
            sync.push(version)
            seconds.append(time.perf_counter() - begin)
        return {"kind": sync.kind, "MB": weight_bytes(Path(model), "float32") / 1e6, "seconds": seconds[1:]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
