"""Online GRPO: groups of rollouts from the current policy, advantages, one optimizer step, new weights for the engine.

`train_grpo` is the front door, `run_grpo` the loop; read it top-down. What a step trains on is in the store before the
step changes a weight (rollouts, then the plan), so a run that was cut short goes on by training its stored steps again, without generating.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from ...base.config import differing
from ...policies.chat import ChatFormat
from ...policies.engines.base import TokenEngine
from ...policies.engines.restarting import restarts
from ...policies.engines.sleeping import asleep
from ...policies.models import weights_hash
from ...store.run_settings import run_payload, stored_settings
from ...store.runs import get_run, start_run
from ...store.task import Task
from ...transform.materialize import grpo_tasks
from ...transform.versions import get_dataset
from ..checkpoints import checkpoint_folder, finished_before, resolve_model
from .batches import Batch, batch_of
from .checks import low_precision, refuse_what_cannot_run
from .config import GrpoConfig
from .generation import Generation
from .learner.learner import StepResult
from .ledger import commit_outcomes, read_batch
from .metrics import one_line, plan_metrics, rollout_metrics
from .saving import load_newest_state, save, saved
from .settings import MAY_CHANGE
from .setup import Parts, open_environment, open_parts, open_processes, own_ray
from .stopping import EarlyStop
from .stopwatch import Stopwatch
from .sync.verify import begin_verification, choose_probe
from .validation import validate
from .viewer import Viewer

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore

Progress = Callable[[int, int, str], None]


def train_grpo(
    store: "LanceStore",
    config: GrpoConfig,
    *,
    engine: TokenEngine | None = None,
    progress: Progress | None = None,
    viewer: Viewer | None = None,
) -> dict[str, Any]:
    """Trains a policy on a GRPO dataset version and returns the row of its last checkpoint.

    A run of that name goes on where its stored batches end, with the same configuration but for what settings.MAY_CHANGE names; one that has
    taken all its steps is left as it is.

    Args:
        engine: Used instead of starting one; it gets the run's weights and keeps the last. Its own max_model_len holds.
        progress: Called after every step with (steps done, steps in all, one line).
        viewer: Told of every phase and every step's numbers.

    Raises ConfigError, EngineError (no room for engine or learner, or the engine is not the learner), TrainingError (a loss that is not finite).
    """
    dataset = get_dataset(store, config.dataset)
    tasks = grpo_tasks(store, dataset)
    environment = open_environment(config, tasks)
    model = resolve_model(store, config.policy.model_name)
    labelled = config.model_copy(update={"dataset": dataset.label})
    payload = run_payload(labelled, model_hash=weights_hash(model))
    chat = ChatFormat.of(model, config.policy.chat)  # refuses a template before anything is paid for
    refuse_what_cannot_run(store, config, environment, tasks, chat)
    steps = config.grpo.max_num_steps
    before = finished_before(store, "grpo", config.run, GrpoConfig, payload, MAY_CHANGE)
    if before is not None and (before["step"] >= steps or stopped_early(store, config)):
        if progress is not None:
            took = f" for {before['step']} steps; another run has another --run" if before["step"] > steps else ""
            progress(steps, steps, f"was trained before{took}; this is its checkpoint")
        return before
    with start_run(store, "grpo", config.run, payload) as run:
        checkpoint_folder(run, config.checkpointing.checkpoint_dir)  # refuses another run's before anything is paid for
        with own_ray(config):
            if engine is None and progress is not None:
                progress(0, steps, "starting the engine")
            with (
                open_processes(config, model, chat, engine, run) as (engine, learner),
                open_parts(store, config, environment, engine, learner, run, model, chat) as parts,
            ):
                return run_grpo(parts, tasks, progress, viewer)


def stopped_early(store: "LanceStore", config: GrpoConfig) -> bool:
    """Whether the finished run of that name ended by a rule that still holds."""
    run = get_run(store, str(config.run))
    before = stored_settings(GrpoConfig, run["config"]).get("grpo", {}).get("early_stop")
    return "stopped" in run["summary"] and before == differing(config).get("grpo", {}).get("early_stop")


def run_grpo(
    parts: Parts, tasks: Sequence[Task], progress: Progress | None = None, viewer: Viewer | None = None
) -> dict[str, Any]:
    """The loop; returns the row of the last checkpoint."""
    config, tracker, steps = parts.config, parts.tracker, parts.config.grpo.max_num_steps
    row: dict[str, Any] = {}
    numbers: dict[str, float] = {}
    first = load_newest_state(parts) + 1
    stop = EarlyStop(parts.run, config.grpo.early_stop, [step for step in range(first) if validated(config, step)])
    stopped = stop.reason if first > 1 else None
    with Generation(parts, tasks) as generation:
        parts.sync.push(first - 1)
        generation.admit(first - 1)
        if first == 1 and config.grpo.val_at_start:
            numbers = validate(parts, 0)
            stopped = stop.saw(0, numbers)
            tracker.log(0, numbers)
        for step in range(first, steps + 1 if not stopped else first):
            watch = Stopwatch(partial(viewer.phase, step) if viewer is not None else None)
            batch = batch_of(parts, tasks, step, generation, watch)
            generation.foresee(step + 1)
            result = train(parts, batch, watch)
            generation.check()
            pushed = sync(parts, generation, step, watch)
            if validated(config, step) or step == steps:
                pushed |= end_check(parts)  # what is measured and kept is measured and kept of the right weights
            numbers = step_metrics(parts, batch, result, watch) | pushed
            if validated(config, step):
                numbers |= validate(parts, step)
                stopped = stop.saw(step, numbers)
            tracker.log(step, numbers)
            saving = due(step, config.checkpointing.save_period or 0) or step == steps or stopped
            if saving or tracker.due():
                parts.commits.begin(tracker.flush)
            if saving:
                parts.commits.wait()  # a run that goes on from here takes none of these steps again
                row = save(parts, step, numbers)
            if viewer is not None:
                viewer.numbers(step, numbers | ({"checkpoint/step": float(row["step"])} if row else {}))
            if progress is not None:
                progress(step, steps, one_line(numbers))
            if stopped:
                break
    row = row or saved(parts, first - 1)  # cut off between its last step and its end
    kept = {name: row[name] for name in ("path", "weights_hash")}
    how = {"stopped": stopped} if stopped else {}
    parts.run.finish({"checkpoint": row["checkpoint_id"], **kept, "steps": row["step"], **how, **numbers})
    return row


def train(parts: Parts, batch: Batch, watch: Stopwatch) -> StepResult:
    """One optimizer step. The batch and its plan are in the store before it changes a weight; when it returns, its outcomes are on their way."""
    plan = batch.plan
    with watch("store"):
        samples, micro_batches = read_batch(parts.store, plan, batch.rollouts, parts.prompts)
    if not parts.probe:
        # Before anything is trained on them: were the first rollouts sampled from the learner's own weights?
        parts.probe = choose_probe(samples)
        begin_check(parts, plan.step, plan.policy_version)
        parts.tracker.log(plan.policy_version, end_check(parts))
    parts.probe = choose_probe(samples) or parts.probe
    sleeping = asleep(parts.engine) if parts.config.policy.generation.sleep_while_training else nullcontext()

    def committed() -> None:
        with watch("store"):
            parts.commits.wait()

    with watch("train"), sleeping, parts.sync.training(plan.step):
        # A learner of this process computes its gradient meanwhile; a group of ranks begins when the batch is there.
        result = parts.learner.step(samples, micro_batches, committed)
    parts.commits.begin(partial(commit_outcomes, parts.store, parts.run, plan.step, result.outcomes))
    return result


def sync(parts: Parts, generation: Generation, step: int, watch: Stopwatch) -> dict[str, float]:
    """Gives the engine the weights after `step`, lets begin what they admit, and compares engine and learner.

    An asynchronous run goes on meanwhile: its number is that of the push before.
    """
    with watch("verify"):
        numbers = end_check(parts)
    with ExitStack() as until_pushed:
        if not parts.config.grpo.async_grpo.in_flight_weight_updates:
            with watch("drain"):
                until_pushed.enter_context(generation.quiet())
        with watch("sync"):
            parts.sync.push(step)
    generation.admit(step)
    with watch("verify"):
        begin_check(parts, step, step)
        return numbers if parts.config.grpo.async_grpo.enabled else end_check(parts)


def begin_check(parts: Parts, step: int, version: int) -> None:
    """Begins to compare engine and learner on the probe."""
    tolerance, by_mean = parts.config.policy.generation.sync_tolerance, low_precision(parts.config) is not None
    parts.checking = begin_verification(parts.learner, parts.engine, parts.probe, version, step, tolerance, by_mean)


def end_check(parts: Parts) -> dict[str, float]:
    """The largest difference that the comparison under way found; nothing without one. Raises EngineError naming the step."""
    checking, parts.checking = parts.checking, None
    gap = None if checking is None else checking.result()
    return {} if gap is None else {"mismatch/sync_max_abs": gap}


def step_metrics(parts: Parts, batch: Batch, result: StepResult, watch: Stopwatch) -> dict[str, float]:
    """All numbers of a step but the validation's."""
    numbers = rollout_metrics(batch.rollouts) | plan_metrics(batch.plan) | batch.metrics | result.metrics
    numbers |= {f"time/{phase}": seconds for phase, seconds in watch.seconds.items()}
    numbers["time/store_behind"] = batch.behind_s + parts.commits.take_seconds()  # beside the step, which did not wait
    numbers["time/step"] = watch.total()
    numbers["engine/restarts"] = float(restarts(parts.engine))
    numbers["learner/restarts"] = float(getattr(parts.learner, "restarts", 0))
    if batch.n_new_tokens is not None:
        numbers["tokens_per_s"] = batch.n_new_tokens / numbers["time/step"]
    return numbers


def validated(config: GrpoConfig, step: int) -> bool:
    """Whether the policy is measured after this step; step 0 is before the first."""
    grpo = config.grpo
    if step == 0:
        return grpo.val_at_start
    return due(step, grpo.val_period) or (step == grpo.max_num_steps and grpo.val_at_end)


def due(step: int, period: int) -> bool:
    """Whether something done every `period` steps is done after this one; 0 is never."""
    return period > 0 and step % period == 0
