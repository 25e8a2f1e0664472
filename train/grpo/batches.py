"""What a step trains on: a plan over rollouts. Commits of both have begun, rollouts first, when the step gets its batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ...environments.mixture import weights_of
from ...store.task import Task
from .generation import Sampled, StepSampler
from .history import warm_batch
from .ledger import (
    as_stored,
    commit_plan,
    fit_to_memory,
    read_batch,
    read_planned,
    read_rollouts,
    read_samples,
    samples_of,
    stored_plan,
)
from .metrics import Stopwatch, staleness_metrics
from .plan import BatchPlan, make_plan, step_settings
from .ranking import rank_groups, rank_metrics, ranked_by, with_ranks
from .teacher import taught

if TYPE_CHECKING:
    from .learner.batch import TrainSample
    from .parts import Parts


@dataclass(frozen=True)
class Batch:
    """What a step trains on.

    Attributes:
        rollouts: Rows of the step, columns PLANNED_COLUMNS.
        n_new_tokens: Tokens sampled for it by this process; None when its plan was stored before.
        metrics: How it came about: `groups/…`, `staleness/…`, `time/…`.
        behind_s: Seconds of writing its rollouts beside the sampling, while no step waited.
    """

    plan: BatchPlan
    rollouts: list[dict[str, Any]]
    n_new_tokens: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    behind_s: float = 0.0


def batch_of(parts: "Parts", tasks: Sequence[Task], step: int, generation: StepSampler, watch: Stopwatch) -> Batch:
    """The step's batch: the stored one if it was planned before, else of history while warm start lasts, else of new rollouts."""
    return _stored(parts, step, watch) or _from_history(parts, tasks, step, watch) or _sampled(parts, step, generation, watch)  # fmt: skip


def _stored(parts: "Parts", step: int, watch: Stopwatch) -> Batch | None:
    if step > parts.last_planned:
        return None
    with watch("store"):
        plan = stored_plan(parts.store, parts.run.run_id, step)
        if plan is None:
            return None
        rollouts = read_planned(parts.store, plan)
        plan = fit_to_memory(parts.run, plan, rollouts, parts.config.policy.train_mb_tokens)
    own = [row for row in rollouts if row["run_id"] == plan.run_id]  # versions of another run are no measure of age
    return Batch(plan, rollouts, None, staleness_metrics(parts.store, step, own))


def _from_history(parts: "Parts", tasks: Sequence[Task], step: int, watch: Stopwatch) -> Batch | None:
    config, store, run = parts.config, parts.store, parts.run
    with watch("history"):
        warm = warm_batch(store, config, run.run_id, step, tasks, parts.policy.chat, parts.learner)
    if warm is None:
        return None
    kl = reference_kl(parts, lambda: samples_of(store, warm.rollouts), watch)
    with watch("store"):
        task_ids = [task.task_id for task in warm.tasks]
        settings = step_settings(config, parts.model_hash, task_ids) | _mixture(parts) | warm.record
        plan = make_plan(run.run_id, step, warm.rollouts, config, settings, kl)
    plan = _taught(parts, plan, [], watch)
    with watch("store"):
        parts.commits.begin(partial(commit_plan, store, plan, run))
    return Batch(plan, warm.rollouts, 0, warm.metrics)


def _sampled(parts: "Parts", step: int, generation: StepSampler, watch: Stopwatch) -> Batch:
    config, store, run = parts.config, parts.store, parts.run
    with watch("wait"):
        sampled = generation.take(step)
    parts.prompts = sampled.prompts | parts.prompts  # the first counts: it is the one in the store
    with watch("store"):
        if sampled.rows is None:
            parts.commits.wait()
        rollouts = read_rollouts(store, run.run_id, step) if sampled.rows is None else as_stored(sampled.rows)
        task_ids = [task.task_id for task in sampled.tasks]
        settings = step_settings(config, parts.model_hash, task_ids) | _mixture(parts) | sampled.record
        if len(sampled.rounds) > 1:
            settings["round_sizes"] = [len(tasks) for tasks in sampled.rounds]
    ranked = ranked_by(parts)
    if ranked:
        with watch("rank"):
            rank_groups(parts, rollouts)
            settings["ranked"] = ranked
    kl = reference_kl(parts, lambda: _samples(parts, step), watch)
    with watch("store"):
        compared = with_ranks(store, rollouts, ranked)
        plan = make_plan(run.run_id, step, compared, config, settings, kl)
    plan = _taught(parts, plan, rollouts, watch)
    with watch("store"):
        parts.commits.begin(partial(commit_plan, store, plan, run))
        numbers = staleness_metrics(store, step, rollouts) | sampled.metrics
        numbers |= rank_metrics(compared, ranked) if ranked else {}
    numbers |= sampling_metrics(sampled, watch.seconds["wait"])
    behind_s = sampled.store_s + sampled.write_s - numbers["time/store_rollouts"]
    return Batch(plan, rollouts, sampled.n_tokens, numbers, behind_s)


def _taught(parts: "Parts", plan: BatchPlan, rollouts: Sequence[dict[str, Any]], watch: Stopwatch) -> BatchPlan:
    """The plan with the teacher's logprobs where there is a teacher; they are read from the store where `rollouts` lack tokens."""
    if parts.teacher is None or not any(entry.kept for entry in plan.entries):
        return plan
    with watch("store"):
        parts.commits.wait()
        samples, _ = read_batch(parts.store, plan, rollouts, parts.prompts)
    with watch("teacher"):
        return taught(plan, samples, parts.teacher)


def _mixture(parts: "Parts") -> dict[str, Any]:
    """`mixture`, the weights by environment, as a part of the plan's settings; nothing for one environment."""
    weights = weights_of(parts.environment)
    return {} if weights is None else {"mixture": weights}


def _samples(parts: "Parts", step: int) -> list["TrainSample"]:
    parts.commits.wait()
    return read_samples(parts.store, parts.run.run_id, step)


def reference_kl(parts: "Parts", read: Callable[[], list["TrainSample"]], watch: Stopwatch) -> dict[str, float] | None:
    """rollout_id → KL to the reference of the samples that `read` gives, where it is taken off rewards; None where it is not."""
    if not parts.config.loss_fn.use_kl_in_reward:
        return None
    with watch("store"):
        samples = read()
    with watch("reference"):
        values = parts.learner.reference_kl(samples)
    return {sample.rollout_id: value for sample, value in zip(samples, values, strict=True)}


def sampling_metrics(sampled: Sampled, waited_s: float) -> dict[str, float]:
    """How the step's rollouts came about.

    `time/overlap` is the share of their time in which the step did not wait for them, `time/store_rollouts` what the step waited for the store within
    `time/wait`.
    """
    refilled = sum(len(tasks) for tasks in sampled.rounds[1:])
    overlap = max(0.0, 1 - waited_s / sampled.seconds) if sampled.seconds else 0.0
    return {
        "groups/refilled": float(refilled),
        "groups/missing": float(sampled.missing),
        "time/generate": sampled.seconds,
        "time/store_rollouts": min(sampled.store_s, waited_s),
        "time/overlap": overlap,
    }
