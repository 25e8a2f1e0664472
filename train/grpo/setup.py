"""What a run needs, opened before its first step: the environment, Ray, the engine, the learner, the writer and the tracker."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import ConfigError
from ...environments.registry import NAMES, load_environment
from ...environments.types import Environment
from ...policies.chat import ChatFormat
from ...policies.engines.base import TokenEngine
from ...policies.engines.cluster import ensure_ray, shutdown_ray
from ...policies.engines.placement import engine_dtype, place
from ...policies.engines.restarting import restarting_vllm
from ...policies.models import weights_hash
from ...policies.token_policy import TokenPolicy
from ...store.runs import Run
from ...store.task import Task
from ...store.writer import RolloutWriter
from ..tracking import Tracker
from .commits import Commits
from .config import GrpoConfig
from .learner.batch import Sample
from .learner.group import LearnerGroup
from .ledger import last_planned
from .restarting import RestartingLearner
from .saving import restore
from .settings import engine_options, engine_sizes, gpu_shares, learner_settings
from .sync.sync import WeightSync, open_sync
from .sync.verify import Verification

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from .learner.learner import Learner


@dataclass
class Parts:
    """What the phases of a step work with.

    Attributes:
        commits: What goes into the store beside the steps: a step's rollouts, its plan, its outcomes, its numbers, in this order.
        sync: The way of weights from the learner to the engine.
        model_hash: weights_hash of the model the run starts from.
        last_planned: The last step that the store had a plan of when the run was started; 0 for none.
        prompts: Tokens of the rendered prompts of the steps so far, by ledger.prompt_key.
        probe: Sequences that engine and learner are compared on; the latest batch that had any.
        checking: The comparison under way; None when none is.
    """

    store: "LanceStore"
    config: GrpoConfig
    run: Run
    environment: Environment
    engine: TokenEngine
    policy: TokenPolicy
    learner: "Learner | RestartingLearner"
    tracker: Tracker
    writer: RolloutWriter
    commits: Commits
    sync: WeightSync
    model_hash: str
    last_planned: int = 0
    prompts: dict[str, list[int]] = field(default_factory=dict)
    probe: list[Sample] = field(default_factory=list)
    checking: Verification | None = None


@contextmanager
def open_parts(
    store: "LanceStore",
    config: GrpoConfig,
    environment: Environment,
    engine: TokenEngine,
    learner: "Learner | RestartingLearner",
    run: Run,
    model: Path,
    chat: ChatFormat,
) -> Iterator[Parts]:
    """The parts of a run around an engine and a learner; the tracker, the writer and the way of weights end with the block."""
    kind, dtype = config.policy.generation.weight_sync, engine_dtype(engine)
    with (
        closing(open_sync(kind, learner, engine, dtype=dtype, share_parameters=True)) as sync,
        Tracker(run, config.logger, run.config, by_itself=False) as tracker,
        # One for all steps: it remembers which prompts and tasks are in the store. A step commits its rollouts when it has them all.
        RolloutWriter(store, run, max_age_s=10) as writer,
        Commits() as commits,
    ):
        policy = TokenPolicy(engine, chat, policy_id=run.run_id)
        hashed, planned = run.config.get("model_hash") or weights_hash(model), last_planned(store, run.run_id)
        yield Parts(
            store, config, run, environment, engine, policy, learner, tracker, writer, commits, sync, hashed, planned
        )


@contextmanager
def open_processes(
    config: GrpoConfig, model: Path, chat: ChatFormat, given: TokenEngine | None, run: Run
) -> Iterator[tuple[TokenEngine, RestartingLearner]]:
    """Engine and learner, which end with the block, but for a given engine, and are started again when they die. Ray must be running."""
    settings, ranks = learner_settings(config), config.cluster.learner_ranks
    engines, split = engine_sizes(config)
    gpus = cluster_gpus()
    for_engine, for_rank = gpu_shares(gpus, settings.device, engines, ranks, split)
    engines = 0 if given is not None else engines
    with ExitStack() as opened:
        places = None
        if ranks > 1 or config.cluster.num_nodes > 1:
            places = opened.enter_context(closing(place(engines, ranks, engine_gpus=for_engine, learner_gpus=for_rank, num_nodes=config.cluster.num_nodes)))  # fmt: skip
        engine = given
        if engine is None:
            options = engine_options(config, gpus) | ({"placed": places.engines} if places else {})
            restarts = config.policy.generation.max_restarts
            engine = opened.enter_context(closing(restarting_vllm(model, restarts, stop_ids=chat.stop_token_ids, **options)))  # fmt: skip
        placement = places.learners if places else None
        cluster = config.cluster
        limits = {"timeout_s": cluster.step_timeout_s, "collective_timeout_s": cluster.collective_timeout_s}
        first = LearnerGroup(str(model), settings, ranks, for_rank, placement, **limits)
        again = placement or [{"num_cpus": 1, "num_gpus": for_rank}] * ranks  # Ray waits for what the dead ones held
        another = partial(LearnerGroup, str(model), settings, ranks, for_rank, again, **limits)
        learner = RestartingLearner(first, another, partial(restore, run, config), cluster.max_restarts)
        yield engine, opened.enter_context(closing(learner))


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


def open_environment(config: GrpoConfig, tasks: Sequence[Task]) -> Environment:
    """The environment of the configuration, or the one that all tasks belong to. Raises ConfigError when they are not of that one."""
    names = sorted({task.environment for task in tasks})
    wanted = config.environment
    environment, other = None, wanted.name in NAMES and wanted.name not in names
    if len(names) == 1 and not other:
        spec = wanted.name or names[0]
        environment = load_environment(
            spec, tables=wanted.tables, tasks=wanted.tasks, seed=wanted.seed, tasks_split=wanted.tasks_split
        )
    if environment is None or environment.name != names[0]:
        called = "" if environment is None or environment.name == wanted.name else f" ({environment.name})"
        raise ConfigError(
            f"The prompts of {config.dataset} are of {', '.join(names) or 'no environment'}, "
            f"the configuration's environment is {wanted.name or 'that of the prompts'}{called}.",
            "Build the set from rollouts of one environment (`--environment`), and name that one or none; environment.name takes what `--env` takes.",
        )
    return environment
