"""The driver of a cluster of two nodes, whose address is in RAY_ADDRESS: prints what happened as a line of JSON.

In a process of its own: a process has one Ray cluster at a time, and the suite has its own.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import ExitStack, closing
from typing import Any


def node_of(learner: object) -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def main(model: str) -> dict:
    import ray
    from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray
    from rollhouse.policies.engines.placement import place
    from rollhouse.policies.engines.restarting import restarting_vllm, restarts
    from rollhouse.train.grpo.config_policy import GrpoOptimizer, PolicyConfig
    from rollhouse.train.grpo.learner.batch import TrainSample
    from rollhouse.train.grpo.learner.group import LearnerGroup
    from rollhouse.train.grpo.learner.settings import LearnerSettings
    from rollhouse.train.grpo.sync.object_store import engine_nodes
    from rollhouse.train.grpo.sync.sync import open_sync
    from rollhouse.train.grpo.sync.verify import begin_verification

    found: dict = {}
    with ExitStack() as opened:
        ensure_ray(address="auto", num_nodes=2, wait_s=60)
        opened.callback(shutdown_ray)
        placement = opened.enter_context(closing(place(2, 2, num_nodes=2)))
        engine: Any = restarting_vllm(model, 1, max_model_len=128, data_parallel_size=2, placed=placement.engines)
        opened.callback(engine.close)
        settings = LearnerSettings(PolicyConfig(model_name=model, optimizer=GrpoOptimizer(lr=1e-3)))
        learner = opened.enter_context(LearnerGroup(model, settings, ranks=2, placement=placement.learners))
        sync = opened.enter_context(closing(open_sync("auto", learner, engine)))
        found |= {"kind": sync.kind, "engine_nodes": engine_nodes(engine), "learner_nodes": learner.run(node_of)}
        probe = [TrainSample(f"r{i}", [5, 6, 7, i], [8, 9, 10, i], [1] * 4, [-7.0] * 4, (-1.0) ** i) for i in range(4)]
        found["gaps"] = []
        for version in (1, 2):
            learner.step(probe, [[0, 1], [2, 3]])
            sync.push(version)
            for one in engine.engines:
                found["gaps"].append(begin_verification(learner, one, probe, version, version, 1e-3).result())
        pid: Any = ray.get(engine.engines[1].engine.actor.ready.remote())
        os.kill(pid, signal.SIGKILL)
        found["after_kill"] = begin_verification(learner, engine.engines[1], probe, 2, 2, 1e-3).result()
        found["restarts"], found["nodes_after"] = restarts(engine), engine_nodes(engine)
        found["scores"] = asyncio.run(engine.score([5, 6, 7]))
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
