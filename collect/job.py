"""One collection from start to end: what `rollhouse collect` does."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..base.errors import ConfigError, EngineError
from ..base.event_loop import run_blocking
from ..environments.harness import refuse_unplayable
from ..environments.mixture import open_mixture, refuse_group_rubrics
from ..environments.registry import tasks_of
from ..environments.types import Environment
from ..environments.verdicts import shaping_rules
from ..policies.engines.base import EngineGone
from ..policies.opening import check_engine, model_hash, open_policy
from ..store.lance_store import LanceStore, quote
from ..store.run_settings import refuse_other_config, run_payload
from ..store.runs import Run, start_run
from ..store.snapshots import create_snapshot, list_snapshots
from ..store.task import Task
from .config import CollectConfig
from .episode import play_episode
from .plan import Plan, failed, make_plan
from .runner import OnDone, Play, collect_slots, no_token_budget
from .summary import CollectSummary
from .workers import open_workers

OpenPlay = Callable[[CollectConfig, Environment], AbstractContextManager[tuple[Play, Callable[[], int]]]]
"""Opens what plays a slot, and a count of the workers that were lost so far."""


def run_job(
    store: LanceStore,
    config: CollectConfig,
    on_start: Callable[[int], None] | None = None,
    on_plan: Callable[[CollectSummary], None] | None = None,
    on_done: OnDone | None = None,
    opening: OpenPlay | None = None,
) -> CollectSummary:
    """Collects what the configuration describes as a run, and takes a snapshot after it when one is named.

    Args:
        on_start: Called with the number of rollouts planned, before the engine starts.
        on_plan, on_done: As in `collect_async`.
        opening: Opens what plays the slots; None is `open_play`, the agent loop. `harness.opening.open_play` takes harnesses too.

    Raises ConfigError for a wrong configuration or a run collected otherwise, and EngineError when the engine ended before the run did, or not one
    rollout got a verdict.
    """
    environment, tasks = load_tasks(config)
    payload = collect_payload(config)
    _refuse(store, config, payload)
    if on_start is not None:
        on_start(len(tasks) * config.num_repeats)
    with (
        (opening or open_play)(config, environment) as (play, lost),
        start_run(store, "collect", config.run, payload) as run,
    ):
        plan = make_plan(store, run.run_id, tasks, config.num_repeats, retry=failed if config.retry_failed else None)
        rules = shaping_rules(environment)
        sampling, limits = config.policy.generation.sampling(config.seed), config.limits
        work = collect_slots(
            store, run, plan, play, sampling, limits.concurrency, limits.token_budget, rules, on_plan, on_done
        )
        try:
            summary = run_blocking(work)
        except EngineGone as error:
            raise _ended_early(error, store, run, plan.planned) from error
        summary.workers_lost = lost()
        if summary.collected and not summary.verdicts:
            error = EngineError(
                f"All {summary.collected} rollouts of run {run.run_id} failed: {(summary.last_error or '').rstrip('.')}.",
                f"Mend that and run the same command with --run {run.run_id} --retry-failed.",
            )
            error.summary = summary
            raise error
        run.finish(summary.as_dict())
    if config.snapshot is not None:
        create_snapshot(store, config.snapshot, run_id=run.run_id)
    return summary


def plan_job(store: LanceStore | None, config: CollectConfig) -> dict[str, Any]:
    """What `run_job` would do, for a dry run: nothing is written and no engine is started.

    Args:
        store: None where there is none yet.

    Raises what `run_job` raises before it starts anything.
    """
    _, tasks = load_tasks(config)
    if store is not None:
        _refuse(store, config, collect_payload(config))
    retry = failed if config.retry_failed else None
    plan = make_plan(store if config.run else None, config.run or "", tasks, config.num_repeats, retry=retry)
    return {"run": config.run, **_counts(plan), "groups": _groups(plan), "config": config.model_dump(mode="json")}


def _counts(plan: Plan) -> dict[str, Any]:
    return {
        "tasks": len(plan.tasks),
        "rollouts": plan.planned,
        "already_there": plan.skipped,
        "of_which_failed": plan.failed_before,
        "to_collect": plan.planned - plan.skipped,
        "tokens_sampled": plan.sampled_before,
    }


def _groups(plan: Plan) -> list[dict[str, Any]]:
    counted = Counter((task.environment, task.category) for task, _, _ in plan.tasks)
    ordered = sorted(counted.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    return [
        {"environment": environment, "category": category, "tasks": count, "rollouts": count * plan.num_repeats}
        for (environment, category), count in ordered
    ]


def load_tasks(config: CollectConfig) -> tuple[Environment, list[Task]]:
    """The environment and the tasks to collect on. Raises ConfigError when there are none, or no engine can collect on them as configured."""
    policy = config.policy
    check_engine(policy)
    if config.limits.token_budget is not None and (policy.engine == "scripted" or policy.endpoint.tokens == "off"):
        raise no_token_budget()
    specs = config.environment.specs()
    refuse_unplayable((spec.harness for spec in specs), policy.engine, config.workers)
    environment = open_mixture(specs, config.seed)
    refuse_group_rubrics(environment)
    return environment, tasks_of(environment, config.environment.split, config.environment.limit)


def collect_payload(config: CollectConfig) -> dict[str, Any]:
    """What a run of the configuration keeps of it."""
    return run_payload(config, model_hash=model_hash(config.policy))


@contextmanager
def open_play(config: CollectConfig, environment: Environment) -> Iterator[tuple[Play, Callable[[], int]]]:
    """What plays a slot, the policy in this process or workers on a Ray cluster, and how many workers were lost so far.

    All that was started is ended afterwards. Raises ValueError for a configuration with a harness.
    """
    if any(spec.harness.chosen for spec in config.environment.specs()):
        raise ValueError("harness.opening.open_play opens harnesses")
    if config.workers is not None:
        with open_workers(config) as workers:
            yield workers.play, lambda: workers.lost
        return
    max_turns = config.environment.max_turns
    limits = max_turns, config.limits.time_limit_s, config.limits.tool_time_limit_s
    with open_policy(config.policy, seed=config.seed or 0, max_turns=config.environment.fewest_turns()) as policy:
        yield lambda slot, sampling: play_episode(environment, policy, slot, sampling, *limits), lambda: 0


def _refuse(store: LanceStore, config: CollectConfig, payload: dict[str, Any]) -> None:
    if config.snapshot is not None and any(taken["name"] == config.snapshot for taken in list_snapshots(store)):
        raise ConfigError(f"There is a snapshot {config.snapshot!r} already.", "Give the new one another name.")
    if config.run is not None:
        refuse_other_config(store, config.run, CollectConfig, payload)


def _ended_early(error: EngineGone, store: LanceStore, run: Run, planned: int) -> EngineGone:
    kept = store.read("rollouts", ["rollout_id"], f"run_id = {quote(run.run_id)}").num_rows
    return EngineGone(
        error.message,
        f"{kept} of {planned} rollouts are in the store; run the same command again with --run {run.run_id} to collect the others.",
    )
