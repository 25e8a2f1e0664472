"""Online GRPO: groups of rollouts from the current policy, advantages, one optimizer step, new weights for the engine.

`train_grpo` is the front door, `run_grpo` the loop; read it top-down. What a step trains on is in the house before the
step (rollouts, then the plan), so a run that was cut short goes on by training its stored steps again, without generating.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...collect.chat import ChatFormat
from ...collect.engines.base import TokenEngine
from ...collect.environments.registry import environment_hash
from ...collect.models import weights_hash
from ...collect.types import Task
from ...store.runs import start_run
from ...transform.materialize import grpo_tasks
from ...transform.versions import get_dataset
from ..checkpoints import checkpoint_folder, finished_before, resolve_model
from .config import GrpoConfig
from .generation import Batch, collect_and_plan, refuse_other_settings, stored_batch
from .learner import StepResult
from .ledger import commit_outcomes, read_batch
from .metrics import one_line, plan_metrics, rollout_metrics
from .plan import BatchPlan
from .prompts import prompts_of_step
from .saving import save
from .settings import MAY_CHANGE, plan_settings
from .setup import Parts, open_engine, open_environment, open_parts, own_ray
from .stopwatch import Stopwatch
from .sync import choose_probe, push_weights, verify_weights
from .validation import validate

if TYPE_CHECKING:
    from ...store.house import House

Progress = Callable[[int, int, str], None]


def train_grpo(
    house: "House", config: GrpoConfig, *, engine: TokenEngine | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Trains a policy on a GRPO dataset version and returns the row of its last checkpoint.

    A run of that name goes on where its stored batches end, with the same configuration but for what settings.MAY_CHANGE names; one that has
    taken all its steps is left as it is.

    Args:
        engine: Used instead of starting one; it gets the run's weights and keeps the last. Its own max_model_len holds.
        progress: Called after every step with (steps done, steps in all, one line).

    Raises ConfigError, EngineError (no room for engine or learner, or the engine is not the learner), TrainingError (a loss that is not finite).
    """
    dataset = get_dataset(house, config.dataset)
    tasks = grpo_tasks(house, dataset)
    environment = open_environment(config, tasks)
    model = resolve_model(house, config.policy.model_name)
    payload: dict[str, Any] = config.model_dump(mode="json") | {
        "dataset": dataset.label,
        "model_hash": weights_hash(model),
    }
    payload["policy"]["chat"] = config.policy.chat.config()  # files by their content
    if (content := environment_hash(config.environment.name or "")) is not None:
        payload["environment"]["sha256"] = content
    chat = ChatFormat.of(model, config.policy.chat)  # refuses a template before anything is paid for
    steps = config.grpo.max_num_steps
    before = finished_before(house, "grpo", config.run, payload, MAY_CHANGE)
    if before is not None and before["step"] == steps:
        if progress is not None:
            progress(steps, steps, "was trained before; this is its checkpoint")
        return before
    with start_run(house, "grpo", config.run, payload) as run:
        checkpoint_folder(run, config.checkpointing.checkpoint_dir)  # refuses another run's before anything is paid for
        with own_ray():
            if engine is None and progress is not None:
                progress(0, steps, "starting the engine")
            with (
                open_engine(config, model, chat, engine) as engine,
                open_parts(house, config, environment, engine, run, model, chat) as parts,
            ):
                return run_grpo(parts, tasks, progress)


def run_grpo(parts: Parts, tasks: Sequence[Task], progress: Progress | None = None) -> dict[str, Any]:
    """The loop; returns the row of the last checkpoint."""
    config, tracker = parts.config, parts.tracker
    steps = config.grpo.max_num_steps
    row: dict[str, Any] = {}
    numbers: dict[str, float] = {}
    push_weights(parts.learner, parts.engine, 0, parts.weights)
    if config.grpo.val_at_start:
        tracker.log(0, validate(parts, 0))
    for step in range(1, steps + 1):
        watch = Stopwatch()
        chosen = prompts_of_step(tasks, step, config.grpo.num_prompts_per_step, config.grpo.seed)
        batch = stored_batch(parts, step) or collect_and_plan(parts, chosen, step, watch)
        refuse_other_settings(batch.plan, plan_settings(config, parts.model_hash, chosen))
        result = train(parts, batch.plan, watch)
        gap = sync(parts, step, watch)
        numbers = step_metrics(batch, result, watch) | {"mismatch/sync_max_abs": gap}
        if due(step, config.grpo.val_period) or (step == steps and config.grpo.val_at_end):
            numbers |= validate(parts, step)
        tracker.log(step, numbers)
        if due(step, config.checkpointing.save_period or 0) or step == steps:
            row = save(parts, step, numbers)
        if progress is not None:
            progress(step, steps, one_line(numbers))
    kept = {name: row[name] for name in ("path", "weights_hash")}
    parts.run.finish({"checkpoint": row["checkpoint_id"], **kept, "steps": steps, **numbers})
    return row


def train(parts: Parts, plan: BatchPlan, watch: Stopwatch) -> StepResult:
    """One optimizer step on the batch of a committed plan, and its outcomes in the house."""
    with watch("store"):
        samples, micro_batches = read_batch(parts.house, plan)
    if not parts.probe:
        # Before anything is trained on them: were the first rollouts sampled from the learner's own weights?
        parts.probe = choose_probe(samples)
        gap = check(parts, plan.step, plan.policy_version)
        parts.tracker.log(plan.policy_version, {"mismatch/sync_max_abs": gap})
    parts.probe = choose_probe(samples) or parts.probe
    with watch("train"):
        result = parts.learner.step(samples, micro_batches)
    with watch("store"):
        commit_outcomes(parts.house, parts.run, plan.step, result.outcomes)
    return result


def sync(parts: Parts, step: int, watch: Stopwatch) -> float:
    """Pushes the weights after `step` and returns the largest logprob difference between engine and learner."""
    with watch("sync"):
        push_weights(parts.learner, parts.engine, step, parts.weights)
    with watch("verify"):
        return check(parts, step, step)


def check(parts: Parts, step: int, version: int) -> float:
    """Compares engine and learner on the probe. Raises EngineError naming the step."""
    tolerance = parts.config.policy.generation.sync_tolerance
    return verify_weights(parts.learner, parts.engine, parts.probe, version, step, tolerance)


def step_metrics(batch: Batch, result: StepResult, watch: Stopwatch) -> dict[str, float]:
    """All numbers of a step but the validation's."""
    numbers = rollout_metrics(batch.rollouts) | plan_metrics(batch.plan) | result.metrics
    numbers |= {f"time/{phase}": seconds for phase, seconds in watch.seconds.items()}
    numbers["time/step"] = watch.total()
    if batch.n_new_tokens is not None:
        numbers["tokens_per_s"] = batch.n_new_tokens / numbers["time/step"]
    return numbers


def due(step: int, period: int) -> bool:
    """Whether something done every `period` steps is done after this one; 0 is never."""
    return period > 0 and step % period == 0
