"""Evaluates a policy on the tasks of an environment. Every rollout is stored and becomes a row of `evaluations`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..base.errors import ConfigError, EvaluationError
from ..collect.runner import collect, unanswered
from ..environments.mixture import parts_of
from ..environments.types import Environment
from ..policies.types import Policy, Sampling
from ..store.appending import insert_if_absent
from ..store.lance_store import LanceStore, quote
from ..store.runs import Run
from ..store.task import Task
from .rows import evaluation_id, refuse_mixture, rows_of_run
from .summary import EvalSummary, summarize

MODES = ("greedy", "sampled")
_COLUMNS = ["rollout_id", "episode_id", "attempt", "task_id", "sample_index", "policy_id", "reward", "passed", "status", "error_type"]  # fmt: skip


def evaluate_policy(
    store: LanceStore,
    run: Run,
    environment: Environment,
    policy: Policy,
    tasks: Iterable[Task],
    mode: str = "greedy",
    samples: int = 1,
    *,
    sampling: Sampling | None = None,
    on_done: Callable[..., None] | None = None,
    **options: Any,
) -> EvalSummary:
    """Evaluates a policy; an interrupted run continues.

    A run holds one policy and one mode per environment, because a slot is a task and a sample number.

    Args:
        mode: `greedy` (temperature 0, one sample) or `sampled` (temperature 1 unless `sampling` has another).
        samples: Rollouts of each task.
        sampling: Settings that replace the mode's; the temperature must fit the mode.
        on_done, options: As in `collect.runner.collect` (max_turns, concurrency, play, …).

    Raises ConfigError for a mode or a run that does not fit, and without tasks; EvaluationError when the engine left rollouts
    without an answer (the same call requests them again; verdicts stay).
    """
    listed = list(tasks)
    sampling = sampling or Sampling(temperature=0.0 if mode == "greedy" else 1.0)
    check_mode(mode, samples, sampling)
    if not listed:
        raise ConfigError(f"There are no tasks of {environment.name} to evaluate on.", "Name another split or limit.")
    for benchmark in parts_of(environment):
        refuse_mixture(store, run, benchmark, mode, policy.policy_id)
    done = collect(
        store,
        run,
        environment,
        policy,
        listed,
        num_repeats=samples,
        sampling=sampling,
        retry=unanswered,
        on_done=on_done,
        **options,
    )
    rows = _evaluated(store, run, _benchmarks(environment, listed), mode, listed, samples)
    insert_if_absent(store, "evaluations", rows)
    if len(rows) < done.planned:
        raise EvaluationError(
            f"The engine left {done.planned - len(rows)} of {done.planned} rollouts of run {run.run_id!r} without an answer.",
            "Run the same command again: it collects only those.",
        )
    # A case keeps its first verdict.
    requested = {row["row_id"] for row in rows}
    return summarize([row for row in rows_of_run(store, run.run_id) if row["row_id"] in requested])


def check_mode(mode: str, samples: int, sampling: Sampling) -> None:
    """Raises ConfigError when mode, samples and temperature do not fit together."""
    if mode not in MODES:
        raise ConfigError(f"There is no evaluation mode {mode!r}.", "Modes are greedy and sampled.")
    if samples < 1 or (mode == "greedy" and samples > 1):
        raise ConfigError(
            f"{samples} rollouts per task do not fit mode {mode}.", "Mode greedy takes 1, mode sampled 1 or more."
        )
    if (sampling.temperature == 0) != (mode == "greedy"):
        raise ConfigError(
            f"Temperature {sampling.temperature:g} does not fit mode {mode}.",
            "Mode greedy is temperature 0, mode sampled is any other.",
        )


def _benchmarks(environment: Environment, tasks: Sequence[Task]) -> dict[str, str]:
    """task_id → `evaluations.benchmark`: the name of its environment."""
    parts = parts_of(environment)
    return {task.task_id: environment.name if len(parts) == 1 else task.environment for task in tasks}


def _evaluated(
    store: LanceStore, run: Run, benchmarks: Mapping[str, str], mode: str, tasks: Sequence[Task], samples: int
) -> list[dict[str, Any]]:
    """A row for the last attempt at each slot of these tasks, in order; none without an answer of the engine."""
    rollouts = store.read("rollouts", columns=_COLUMNS, filter=f"run_id = {quote(run.run_id)}").to_pylist()
    mains = [row for row in rollouts if row["episode_id"] in (None, row["rollout_id"])]
    last = {(row["task_id"], row["sample_index"]): row for row in sorted(mains, key=lambda row: row["attempt"])}
    category = {task.task_id: task.category for task in tasks}
    now = datetime.now(UTC)
    return [
        {
            "row_id": evaluation_id(run.run_id, benchmarks[task], category[task], task, mode, sample),
            "run_id": run.run_id,
            "benchmark": benchmarks[task],
            "category": category[task],
            "case_id": task,
            "mode": mode,
            "sample": sample,
            "policy_id": rollout["policy_id"],
            "passed": bool(rollout["passed"]),
            "score": rollout["reward"] or 0.0,
            "rollout_id": rollout["rollout_id"],
            "error_type": rollout["error_type"] or (None if rollout["status"] == "completed" else rollout["status"]),
            "created_at": now,
        }
        for task in category
        for sample in range(samples)
        if (rollout := last.get((task, sample))) is not None and not unanswered(rollout)
    ]
