"""The rollouts of a step, from the current policy into the house; then the plan over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...collect.runner import collect
from ...collect.types import Task
from ...store.errors import ConfigError
from .ledger import commit_plan, read_rollouts, stored_plan
from .plan import BatchPlan, make_plan
from .settings import plan_options, plan_settings, playing, sampling
from .setup import Parts
from .stopwatch import Stopwatch


@dataclass(frozen=True)
class Batch:
    """What a step trains on.

    Attributes:
        rollouts: Rows of the step, columns PLANNED_COLUMNS.
        n_new_tokens: Sampled for it just now; None when its plan was stored before.
    """

    plan: BatchPlan
    rollouts: list[dict[str, Any]]
    n_new_tokens: int | None = None


def stored_batch(parts: Parts, step: int) -> Batch | None:
    """The batch of a step whose plan is in the house already."""
    plan = stored_plan(parts.house, parts.run.run_id, step)
    return Batch(plan, read_rollouts(parts.house, parts.run.run_id, step)) if plan is not None else None


def collect_and_plan(parts: Parts, chosen: Sequence[Task], step: int, watch: Stopwatch) -> Batch:
    """Groups of rollouts from the current policy, in the house; then the plan over them, in the house too."""
    config = parts.config
    with watch("generate"):
        summary = collect(
            parts.house,
            parts.run,
            parts.environment,
            parts.policy,
            chosen,
            num_repeats=config.grpo.num_generations_per_prompt,
            sampling=sampling(config, step),
            step=step,
            **playing(config),
        )
    with watch("store"):
        rollouts = read_rollouts(parts.house, parts.run.run_id, step)
        settings = plan_settings(config, parts.model_hash, chosen)
        plan = make_plan(parts.run.run_id, step, rollouts, plan_options(config), config.grpo.seed, settings)
        commit_plan(parts.house, plan)
    return Batch(plan, rollouts, summary.sampled_tokens)


def refuse_other_settings(plan: BatchPlan, settings: dict[str, Any]) -> None:
    """A run goes on only with the settings it was started with. Raises ConfigError naming the first that differs."""
    for name in settings:
        if plan.settings.get(name) != settings[name]:
            raise ConfigError(
                f"Run {plan.run_id} trained step {plan.step} with other settings ({name}).",
                "Give this run another name, or the settings of before (`rollhouse runs show`).",
            )
