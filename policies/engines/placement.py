"""Where engines and learner ranks run: one bundle of CPUs and GPUs for each, spread over the machines of the cluster."""

import math
from dataclasses import dataclass
from typing import Any

from ...base.errors import EngineError
from .base import TokenEngine


@dataclass(frozen=True)
class Placement:
    """A placement group of Ray, removed by `close`; what runs in it then ends.

    Attributes:
        engines: How to place each engine: options for its Ray actor.
        learners: The same for each learner rank.
    """

    group: Any
    engines: list[dict[str, Any]]
    learners: list[dict[str, Any]]

    def close(self) -> None:
        """Gives the resources back."""
        import ray
        from ray.util import remove_placement_group

        if ray.is_initialized():
            remove_placement_group(self.group)


def place(
    engines: int,
    learner_ranks: int,
    *,
    engine_gpus: float = 0,
    learner_gpus: float = 0,
    num_nodes: int = 1,
    wait_s: float = 60,
) -> Placement:
    """Reserves a CPU and the given GPUs for each engine and learner rank. Ray must be running (`ensure_ray`).

    One bundle holds engine i and rank i, so they share a node; on several nodes the pairs are spread over them as evenly as they fit. Half a
    GPU for each makes a pair share one.

    Raises EngineError when the cluster has no room for all of them within `wait_s` seconds.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    pairs = max(engines, learner_ranks)
    parts = [(i < engines, i < learner_ranks) for i in range(pairs)]
    bundles = [
        bundle_of(engine * engine_gpus, rank * learner_gpus, engine + rank, learner_gpus > 0) for engine, rank in parts
    ]
    group = placement_group(bundles, strategy="SPREAD" if num_nodes > 1 else "PACK")
    ready, _ = ray.wait([group.ready()], timeout=wait_s)
    if not ready:
        remove_placement_group(group)
        has = ", ".join(f"{number:g} {name}" for name, number in sorted(ray.cluster_resources().items()) if name in ("CPU", "GPU"))  # fmt: skip
        raise EngineError(
            f"Not enough resources for {engines} engines and {learner_ranks} learner ranks: the cluster has {has}, and the largest part of it needs {bundles[0]}.",
            "Ask for fewer (data_parallel_size, cluster.learner_ranks), add machines, or end what else runs on the cluster.",
        )

    def options(bundle: int, gpus: float) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        return {"num_cpus": 1, "num_gpus": gpus, "scheduling_strategy": strategy}

    return Placement(
        group,
        [options(i, engine_gpus) for i in range(engines)],
        [options(i, learner_gpus) for i in range(learner_ranks)],
    )


def bundle_of(engine_gpus: float, rank_gpus: float, cpus: int, learner_on_gpus: bool) -> dict[str, float]:
    """The resources of a pair, or of the rest of one. Where ranks are on GPUs it has them whole: NCCL refuses two ranks on one."""
    gpus = engine_gpus + rank_gpus
    gpus = math.ceil(gpus) if learner_on_gpus else gpus
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def engine_node(engine: TokenEngine) -> str | None:
    """Id of the Ray node that an engine's process runs on; None for one of this process."""
    return _ask_actor(engine, "node")


def engine_dtype(engine: TokenEngine) -> str | None:
    """What an engine computes in (`bfloat16`, …), the first of several; None for one of this process."""
    return _ask_actor(getattr(engine, "engines", (engine,))[0], "dtype")


def _ask_actor(engine: TokenEngine, what: str) -> str | None:
    actor = getattr(getattr(engine, "engine", engine), "actor", None)
    if actor is None:
        return None
    import ray

    return ray.get(getattr(actor, what).remote(), timeout=60)
