"""A policy on the tasks of an environment: rollouts are collected and kept, and every one becomes a row of `evaluations`."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..collect.runner import collect
from ..collect.types import Environment, Policy, Sampling, Task
from ..store.errors import ConfigError
from ..store.house import House, quote
from ..store.runs import Run
from .rows import evaluation_id, refuse_mixture
from .summary import EvalSummary, summarize

MODES = ("greedy", "sampled")
_COLUMNS = ["rollout_id", "slot_id", "attempt", "task_id", "sample_index", "policy_id", "reward", "passed", "status", "error_type"]  # fmt: skip


def evaluate_policy(
    house: House,
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
    """Evaluates a policy; a run that was cut short goes on where it stopped.

    A run holds one policy and, of one environment, one mode: only task and sample number tell its rollouts' slots apart.

    Args:
        mode: `greedy` (temperature 0, one sample) or `sampled` (temperature 1 unless `sampling` says otherwise).
        samples: Rollouts of each task.
        sampling: Other settings than the mode's own; its temperature must fit the mode.
        on_done, options: As in `collect.runner.collect` (max_turns, concurrency, …).

    Raises ConfigError for a mode or a run that does not fit, and for no tasks at all.
    """
    listed = list(tasks)
    sampling = _settings(mode, samples, sampling)
    if not listed:
        raise ConfigError(f"There are no tasks of {environment.name} to evaluate on.", "Name another split or limit.")
    refuse_mixture(house, run, environment.name, mode, policy.policy_id)
    collect(house, run, environment, policy, listed, num_repeats=samples, sampling=sampling, on_done=on_done, **options)
    rows = _evaluated(house, run, environment.name, mode, listed, samples)
    house.insert_if_absent("evaluations", rows)
    return summarize(rows)


def _settings(mode: str, samples: int, sampling: Sampling | None) -> Sampling:
    if mode not in MODES:
        raise ConfigError(f"There is no evaluation mode {mode!r}.", "Modes are greedy and sampled.")
    if samples < 1 or (mode == "greedy" and samples > 1):
        raise ConfigError(f"{samples} samples do not fit mode {mode}.", "Greedy takes 1, sampled 1 or more.")
    sampling = sampling or Sampling(temperature=0.0 if mode == "greedy" else 1.0)
    if (sampling.temperature == 0) != (mode == "greedy"):
        raise ConfigError(
            f"Temperature {sampling.temperature:g} does not fit mode {mode}.",
            "Greedy is temperature 0, sampled is not.",
        )
    return sampling


def _evaluated(
    house: House, run: Run, benchmark: str, mode: str, tasks: Sequence[Task], samples: int
) -> list[dict[str, Any]]:
    """One row for the last attempt at each slot of these tasks, in the order of the tasks."""
    rollouts = house.read("rollouts", columns=_COLUMNS, filter=f"run_id = {quote(run.run_id)}").to_pylist()
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for rollout in sorted(rollouts, key=lambda rollout: rollout["attempt"]):
        last[rollout["task_id"], rollout["sample_index"]] = rollout
    category = {task.task_id: task.category for task in tasks}
    now = datetime.now(UTC)
    return [
        {
            "row_id": evaluation_id(run.run_id, benchmark, category[task], task, mode, sample),
            "run_id": run.run_id,
            "benchmark": benchmark,
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
        if (rollout := last.get((task, sample))) is not None
    ]
