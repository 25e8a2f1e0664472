"""One collection from start to end: what `rollhouse collect` does."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..store.errors import ConfigError, EngineError
from ..store.house import House
from ..store.runs import start_run
from ..store.snapshots import create_snapshot, list_snapshots
from .environments.registry import load_environment, tasks_of
from .opening import check_engine, model_hash, open_policy
from .runner import CollectSummary, collect, failed, refuse_other_config
from .task_files import tasks_sha256
from .types import Environment, Sampling, Task

OnDone = Callable[[dict[str, Any], CollectSummary], None]


@dataclass(frozen=True)
class CollectJob:
    """What to collect.

    Attributes:
        environment, tables, tasks, tasks_split: As in `load_environment`.
        engine: `scripted`, `vllm`, `torch` or `openai:URL`.
        model: A model folder, or the name an endpoint serves.
        limit: First so many tasks; None is all.
        seed: Of generated tasks, of the script's mistakes and of sampling; None lets the engine choose.
        concurrency: Rollouts in flight.
        max_model_len: None is the model's own limit, at most 4096.
        retry_failed: Try again where an earlier attempt failed. Not part of the run's configuration.
    """

    environment: str
    engine: str
    tables: str | None = None
    tasks: str | None = None
    split: str = "train"
    model: str | None = None
    num_repeats: int = 1
    limit: int | None = None
    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    max_turns: int = 6
    mistake_rate: float = 0.0
    max_model_len: int | None = None
    concurrency: int = 64
    time_limit_s: float = 600.0
    retry_failed: bool = False
    tasks_split: str | None = None


def run_job(
    house: House,
    job: CollectJob,
    run_name: str | None = None,
    snapshot: str | None = None,
    on_start: Callable[[int], None] | None = None,
    on_done: OnDone | None = None,
) -> CollectSummary:
    """Collects what the job describes as a run, and takes a snapshot after it when one is named.

    Args:
        run_name: A run that exists is resumed if its configuration is this one.
        on_start: Called with the number of rollouts planned, before the engine starts.
        on_done: As in `collect`.

    Raises ConfigError for a wrong job or a run collected otherwise, and EngineError when not one rollout got a verdict.
    """
    environment, tasks = load_tasks(job)
    if snapshot is not None and any(taken["name"] == snapshot for taken in list_snapshots(house)):
        raise ConfigError(f"There is a snapshot {snapshot!r} already.", "Give the new one another name.")
    config = run_config(job)
    if run_name is not None:
        refuse_other_config(house, run_name, config)
    if on_start is not None:
        on_start(len(tasks) * job.num_repeats)
    opened = open_policy(
        job.engine,
        job.model,
        mistake_rate=job.mistake_rate,
        seed=job.seed or 0,
        max_turns=job.max_turns,
        max_model_len=job.max_model_len,
    )
    with opened as policy, start_run(house, "collect", run_name, config) as run:
        summary = collect(
            house,
            run,
            environment,
            policy,
            tasks,
            num_repeats=job.num_repeats,
            sampling=Sampling(job.temperature, job.top_p, max_tokens=job.max_tokens, seed=job.seed),
            max_turns=job.max_turns,
            concurrency=job.concurrency,
            time_limit_s=job.time_limit_s,
            retry=failed if job.retry_failed else None,
            on_done=on_done,
        )
        if summary.collected and not summary.verdicts:
            raise EngineError(
                f"All {summary.collected} rollouts of run {run.run_id} failed: {(summary.last_error or '').rstrip('.')}.",
                f"Mend that and run the same command with --run {run.run_id} --retry-failed.",
            )
        run.finish(summary.as_dict())
    if snapshot is not None:
        create_snapshot(house, snapshot, run_id=run.run_id)
    return summary


def load_tasks(job: CollectJob) -> tuple[Environment, list[Task]]:
    """The environment and the tasks to collect on. Raises ConfigError when there are none."""
    check_engine(job.engine, job.model)
    if job.limit is not None and job.limit < 1:
        raise ConfigError(f"--limit is {job.limit}.", "Ask for at least one task.")
    if not 0 <= job.mistake_rate <= 1:
        raise ConfigError(f"--mistake-rate is {job.mistake_rate}.", "It is a probability, 0 to 1.")
    if job.temperature < 0 or job.max_tokens < 1 or job.concurrency < 1 or job.max_turns < 1:
        raise ConfigError("A setting is out of range.", "--temperature is 0 or more, --max-tokens, --concurrency and --max-turns at least 1.")  # fmt: skip
    environment = load_environment(job.environment, job.tables, job.tasks, job.seed, job.tasks_split)
    return environment, tasks_of(environment, job.split, job.limit)


def run_config(job: CollectJob) -> dict[str, Any]:
    """What the run is started with: all that decides what is collected, the model and the tasks file by their content."""
    config = asdict(job)
    for name in ("retry_failed", "concurrency", "time_limit_s"):
        del config[name]
    config["model_hash"] = model_hash(job.engine, job.model)
    config["tasks_sha256"] = tasks_sha256(job.tasks) if job.tasks else None
    return config
