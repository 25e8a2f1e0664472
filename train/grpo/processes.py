"""The processes of a run: Ray, the engine and the learner's ranks, and which GPUs each gets."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError, EngineError
from ...policies.chat import ChatFormat
from ...policies.engines.base import TokenEngine
from ...policies.engines.cluster import ensure_ray, shutdown_ray
from ...policies.engines.placement import place
from ...policies.engines.restarting import restarting_vllm
from ...policies.engines.vllm_adapter import adapter_options
from .config import GrpoConfig
from .learner.group import LearnerGroup
from .learner.restarting import RestartingLearner
from .learner.settings import learner_device, learner_settings
from .saving import RunCheckpoints
from .sync.transfer import engine_arguments

log = logging.getLogger("rollhouse")
SHARED_GPU_MEMORY = 0.4
"""Of a GPU that engine and learner share, vLLM's part (its `gpu_memory_utilization`): the learner has weights, gradients and two moments."""


@contextmanager
def open_processes(
    config: GrpoConfig, model: Path, chat: ChatFormat, given: TokenEngine | None, checkpoints: RunCheckpoints
) -> Iterator[tuple[TokenEngine, RestartingLearner]]:
    """Engine and learner, which end with the block (a given engine does not) and are restarted when they die. Ray must be running."""
    settings, cluster = learner_settings(config), config.cluster
    engines, split = engine_sizes(config)
    gpus = cluster_gpus()
    for_engine, for_rank = gpu_shares(gpus, settings.device, engines, cluster.learner_ranks, split)
    with ExitStack() as opened:
        places = None
        if cluster.learner_ranks > 1 or cluster.num_nodes > 1:
            n_engines = 0 if given is not None else engines
            shares = {"engine_gpus": for_engine, "learner_gpus": for_rank}
            places = place(n_engines, cluster.learner_ranks, **shares, num_nodes=cluster.num_nodes)
            opened.enter_context(closing(places))
        engine = given
        if engine is None:
            options = engine_options(config, gpus) | ({"placed": places.engines} if places else {})
            engine = _start_engine(config, model, {"stop_ids": chat.stop_token_ids, **options})
            opened.enter_context(closing(engine))

        def start(placement: Any) -> LearnerGroup:
            limits = {"timeout_s": cluster.step_timeout_s, "collective_timeout_s": cluster.collective_timeout_s}
            return LearnerGroup(str(model), settings, cluster.learner_ranks, for_rank, placement, **limits)

        placement = places.learners if places else None
        # For a group in place of one that died, Ray waits for what the dead one held.
        again = placement or [{"num_cpus": 1, "num_gpus": for_rank}] * cluster.learner_ranks
        learner = RestartingLearner(start(placement), partial(start, again), checkpoints.restore, cluster.max_restarts)
        yield engine, opened.enter_context(closing(learner))


def _start_engine(config: GrpoConfig, model: Path, options: dict[str, Any]) -> Any:
    """An engine that takes adapters where they are to be pushed and the model's architecture has them in vLLM."""
    restarts, adapters = config.policy.generation.max_restarts, adapter_arguments(config)
    if adapters is not None:
        try:
            return restarting_vllm(model, restarts, **options, **adapters)
        except EngineError as error:
            if "lora" not in error.message.lower():
                raise
            log.warning("Pushes are of merged weights: %s", error.message)
    return restarting_vllm(model, restarts, **options)


def adapter_arguments(config: GrpoConfig) -> dict[str, Any] | None:
    """The engine's arguments for adapters that are pushed alone; None where weights are pushed merged, or nothing is adapted."""
    lora, generation = config.policy.lora, config.policy.generation
    if lora is None or generation.adapters == "merged" or config.cluster.num_nodes > 1:
        return None
    if generation.weight_sync not in ("auto", "file"):
        return None
    return adapter_options(lora.rank)


@contextmanager
def own_ray(config: GrpoConfig) -> Iterator[None]:
    """A Ray cluster: the one that this process has, the one at ray.address, else one that ends with the block."""
    cluster = config.cluster
    started = ensure_ray(address=config.ray.address, num_nodes=cluster.num_nodes, wait_s=cluster.wait_s)
    try:
        yield
    finally:
        if started:
            shutdown_ray()


def cluster_gpus() -> float:
    """GPUs of the cluster."""
    import ray

    return ray.cluster_resources().get("GPU", 0)


def gpu_shares(gpus: float, device: str, engines: int = 1, ranks: int = 1, split: int = 1) -> tuple[float, float]:
    """GPUs of each (engine, learner rank) of a cluster that has `gpus`: whole ones where there are enough, else half of one each; a rank's 0 on a CPU.

    Args:
        split: GPUs that an engine is split over; then it has them to itself.

    Raises ConfigError for a learner on GPUs that the cluster does not have.
    """
    if not device.startswith("cuda"):
        return (min(1, gpus / engines) if split == 1 else split * (gpus > 0)), 0
    apart = engines * split + ranks
    least = apart if split > 1 else max(engines, ranks)
    if gpus < least:
        has = f"{gpus:g}" if gpus else "none"
        of = f"{engines} engines" + (f" over {split} GPUs each" if split > 1 else "")
        raise ConfigError(
            f"There are not enough GPUs for the learner: {of} and {ranks} learner ranks need {least}, the Ray cluster has {has}.",
            "Set policy.device=cpu, lower data_parallel_size, tensor_parallel_size or cluster.learner_ranks, or see `rollhouse doctor`.",
        )
    return (split, 1) if gpus >= apart else (0.5, 0.5)


def engine_sizes(config: GrpoConfig) -> tuple[int, int]:
    """How many engines there are, and over how many GPUs each is split."""
    sizes = config.policy.generation.vllm
    return sizes.data_parallel_size, sizes.tensor_parallel_size


def engine_options(config: GrpoConfig, gpus: float) -> dict[str, Any]:
    """What `open_vllm` is called with on a cluster that has `gpus`, besides the model."""
    generation = config.policy.generation
    device = learner_device(config.policy.device)
    engines, split = engine_sizes(config)
    share, _ = gpu_shares(gpus, device, engines, config.cluster.learner_ranks, split)
    shared = {"gpu_memory_utilization": SHARED_GPU_MEMORY} if 0 < share < 1 else {}
    return {
        "max_model_len": config.policy.max_total_sequence_length,
        "seed": config.grpo.seed,
        "num_gpus": share,
        "request_timeout_s": max(600, config.environment.longest_s(generation.time_limit_s)),
        **({"enable_return_routed_experts": True} if config.policy.router_replay else {}),
        **({"enable_sleep_mode": True} if generation.sleep_while_training else {}),
        **shared,
        **engine_arguments(generation.weight_sync),
        **generation.vllm.model_dump(exclude_defaults=True),
    }
