"""One evaluation from start to end, for `rollhouse eval env` and `rollhouse eval bfcl`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..base.errors import ConfigError
from ..collect.runner import CollectSummary
from ..environments.harness import refuse_unplayable
from ..environments.mixture import open_mixture, refuse_group_rubrics
from ..environments.registry import tasks_of
from ..environments.types import Environment
from ..harness.opening import open_harnesses
from ..policies.config import PolicySettings
from ..policies.opening import check_engine, model_hash, open_policy
from ..policies.types import Sampling
from ..store.lance_store import LanceStore
from ..store.rollout import Rollout
from ..store.run_settings import refuse_other_config, run_payload
from ..store.runs import start_run
from ..store.task import Task
from .bfcl import BfclSummary, evaluate_bfcl
from .bfcl.categories import categories_named
from .bfcl.checker import require_bfcl
from .config import BfclConfig, EvaluationConfig
from .environment import check_mode, evaluate_policy
from .summary import EvalSummary


def run_evaluation(
    store: LanceStore,
    config: EvaluationConfig,
    *,
    on_start: Callable[[int], None] | None = None,
    on_done: Callable[[Rollout, CollectSummary], None] | None = None,
) -> tuple[str, EvalSummary]:
    """Evaluates on an environment in a run of kind `eval`, resuming the one of that name. Returns its id and the summary.

    Args:
        config: The model is a folder or a name on the hub for vllm and torch.
        on_start: Called with the number of rollouts, before the engine starts.
        on_done: As in `collect_async`.

    Raises ConfigError for an invalid configuration or a run with a different one, and the errors of `evaluate_policy`.
    """
    environment, tasks = check_evaluation(config)
    refuse_other_evaluation(store, config)
    limits, turns = config.limits, config.environment.max_turns
    with start_run(store, "eval", config.run, _payload(config)) as run:
        if on_start:
            on_start(len(tasks) * config.num_repeats)
        fewest = config.environment.fewest_turns()
        with (
            open_policy(config.policy, seed=config.seed, max_turns=fewest) as policy,
            open_harnesses(environment, policy, turns, limits.time_limit_s, limits.tool_time_limit_s) as play,
        ):
            summary = evaluate_policy(
                store,
                run,
                environment,
                policy,
                tasks,
                config.mode,
                config.num_repeats,
                sampling=config.sampling(),
                max_turns=turns,
                concurrency=limits.concurrency,
                time_limit_s=limits.time_limit_s,
                tool_limit_s=limits.tool_time_limit_s,
                on_done=on_done,
                play=play,
            )
        run.finish(asdict(summary))
    return run.run_id, summary


def check_evaluation(config: EvaluationConfig) -> tuple[Environment, list[Task]]:
    """The environment and its tasks. Raises ConfigError for an inconsistent configuration, or no tasks."""
    _check_policy(config.policy)
    check_mode(config.mode, config.num_repeats, config.sampling())
    specs = config.environment.specs()
    refuse_unplayable((spec.harness for spec in specs), config.policy.engine)
    environment = open_mixture(specs, config.seed)
    refuse_group_rubrics(environment)
    return environment, tasks_of(environment, config.environment.split, config.environment.limit)


def refuse_other_evaluation(store: LanceStore, config: EvaluationConfig) -> None:
    """Raises ConfigError when the run exists with a different configuration."""
    if config.run is not None:
        refuse_other_config(store, config.run, EvaluationConfig, _payload(config))


def check_bfcl(config: BfclConfig) -> BfclConfig:
    """The configuration with the names of its categories in place of those of groups. Raises ConfigError for an unknown name, mode or engine."""
    categories = categories_named(config.categories, config.mode)
    _check_policy(config.policy)
    return config.model_copy(update={"categories": categories})


def refuse_other_bfcl(store: LanceStore, config: BfclConfig) -> None:
    """Raises ConfigError when the run exists with a different configuration."""
    if config.run is not None:
        refuse_other_config(store, config.run, BfclConfig, _payload(check_bfcl(config)))


def run_bfcl(
    store: LanceStore,
    config: BfclConfig,
    *,
    on_start: Callable[[], None] | None = None,
    on_cases: Callable[[int], None] | None = None,
    on_done: Callable[[], None] | None = None,
) -> tuple[str, BfclSummary]:
    """Evaluates on BFCL in a run of kind `eval`, resuming the one of that name. Returns its id and the summary.

    Args:
        on_start: Called before the engine starts.
        on_cases, on_done: As in `evaluate_bfcl`.

    Raises ConfigError for an invalid configuration or a run with a different one, and the errors of `evaluate_bfcl`.
    """
    config = check_bfcl(config)
    require_bfcl(config.categories)  # before an engine starts
    refuse_other_bfcl(store, config)
    with start_run(store, "eval", config.run, _payload(config)) as run:
        if on_start:
            on_start()
        with open_policy(config.policy) as policy:
            summary = evaluate_bfcl(
                store,
                run,
                policy,
                config.categories,
                mode=config.mode,
                limit=config.limit,
                sampling=Sampling(temperature=0.0, max_tokens=config.policy.generation.max_new_tokens),
                concurrency=config.limits.concurrency,
                on_cases=on_cases,
                on_done=on_done,
            )
        run.finish({"accuracy": summary.accuracy, **asdict(summary)})
    return run.run_id, summary


def _payload(config: EvaluationConfig | BfclConfig) -> dict[str, Any]:
    return run_payload(config, model_hash=model_hash(config.policy))


def _check_policy(policy: PolicySettings) -> None:
    check_engine(policy)
    if policy.engine == "scripted" and policy.model_name is not None:
        raise ConfigError(
            f"The scripted engine does not evaluate a model, and the model {policy.model_name!r} is named.",
            "Name an engine that loads models, such as --engine vllm.",
        )
