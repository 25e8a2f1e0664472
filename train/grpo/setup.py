"""What a run needs, opened before its first step: the environment, Ray, the engine, the learner, the writer and the tracker."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...collect.chat import ChatFormat
from ...collect.engines.base import TokenEngine
from ...collect.engines.cluster import ensure_ray, shutdown_ray
from ...collect.engines.vllm_actor import open_vllm
from ...collect.environments.registry import NAMES, load_environment
from ...collect.models import weights_hash
from ...collect.policies import TokenPolicy
from ...collect.types import Environment, Task
from ...store.errors import ConfigError
from ...store.runs import Run
from ...store.writer import RolloutWriter
from ..tracking import Tracker
from .batch import Sample
from .config import GrpoConfig
from .learner_actor import RemoteLearner
from .ledger import last_planned
from .settings import engine_options, gpu_shares, learner_settings
from .sync import weights_folder

if TYPE_CHECKING:
    from ...store.house import House


@dataclass
class Parts:
    """What the phases of a step work with.

    Attributes:
        model_hash: weights_hash of the model the run starts from.
        weights: Folder through which weights are pushed.
        last_planned: The last step that the house had a plan of when the run was started; 0 for none.
        probe: Sequences that engine and learner are compared on; the latest batch that had any.
    """

    house: "House"
    config: GrpoConfig
    run: Run
    environment: Environment
    engine: TokenEngine
    policy: TokenPolicy
    learner: RemoteLearner
    tracker: Tracker
    model_hash: str
    weights: Path
    last_planned: int = 0
    probe: list[Sample] = field(default_factory=list)


@contextmanager
def open_parts(
    house: "House",
    config: GrpoConfig,
    environment: Environment,
    engine: TokenEngine,
    run: Run,
    model: Path,
    chat: ChatFormat,
) -> Iterator[Parts]:
    """The parts of a run around a given engine; those that are ours end with the block. Ray must be running."""
    settings = learner_settings(config)
    with (
        weights_folder() as weights,
        RemoteLearner(str(model), settings, gpu_shares(cluster_gpus(), settings.device)[1]) as learner,
        Tracker(run, config.logger, run.config) as tracker,
        RolloutWriter(house, run),  # one for all steps: it remembers which prompts and tasks are in the house
    ):
        policy = TokenPolicy(engine, chat, policy_id=run.run_id)
        yield Parts(
            house,
            config,
            run,
            environment,
            engine,
            policy,
            learner,
            tracker,
            weights_hash(model),
            weights,
            last_planned(house, run.run_id),
        )


@contextmanager
def open_engine(config: GrpoConfig, model: Path, chat: ChatFormat, given: TokenEngine | None) -> Iterator[TokenEngine]:
    """The engine of a run: the given one, which stays, else a vLLM engine that ends with the block."""
    if given is not None:
        yield given
        return
    engine = open_vllm(model, stop_ids=chat.stop_token_ids, **engine_options(config, cluster_gpus()))
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def own_ray() -> Iterator[None]:
    """A Ray cluster: the one that this process has, else one that ends with the block."""
    started = ensure_ray()
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
