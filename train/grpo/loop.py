"""Online GRPO: groups of rollouts from the current policy, advantages, one optimizer step, new weights for the engine.

`train_grpo` is the front door, `run_grpo` the loop; read it top-down. What a step trains on is in the store before the
step changes a weight (rollouts, then the plan), so an interrupted run trains its stored steps again when it is resumed, without generating.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.config import differing
from ...policies.engines.base import TokenEngine
from ...policies.engines.restarting import restarts
from ...policies.engines.sleeping import asleep
from ...store.checkpoint_paths import stored_path
from ...store.run_settings import stored_settings
from ...store.runs import get_run, start_run
from ...store.task import Task
from ..checkpoints import checkpoint_folder
from .batches import Batch, batch_of
from .checks import low_precision
from .config import GrpoConfig
from .generation import StepSampler
from .learner.batch import TrainSample
from .learner.update import StepResult
from .ledger import commit_outcomes, read_batch
from .metrics import Stopwatch, Viewer, one_line, plan_metrics, rollout_metrics
from .parts import Parts, open_parts
from .preparing import prepare_run
from .processes import open_processes, own_ray
from .saving import RunCheckpoints
from .sync.verify import begin_verification, choose_probe
from .validation import EarlyStop, validate

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore

FIRST_PROMPTS = 16
"""Prompts from which those of the first check are chosen."""
Progress = Callable[[int, int, str], None]
"""Called after every step with (steps done, steps in all, one line)."""


def train_grpo(
    store: "LanceStore",
    config: GrpoConfig,
    *,
    engine: TokenEngine | None = None,
    progress: Progress | None = None,
    viewer: Viewer | None = None,
) -> dict[str, Any]:
    """Trains a policy on a GRPO dataset version and returns the row of its last checkpoint.

    A run of that name is resumed where its stored batches end, with the same configuration except for settings that are marked FREE; a run that has
    taken all its steps is left as it is. Can be called under a running event loop (in a notebook).

    Args:
        engine: Used instead of starting one; it gets the run's weights and keeps the last. Its own max_model_len holds.
        progress: Called after every step with (steps done, steps in all, one line).
        viewer: Notified of every phase and of every step's numbers.

    Raises ConfigError, EngineError (no room for engine or learner, or engine and learner weights differ), TrainingError (a loss that is not finite).
    """
    ready = prepare_run(store, config)
    model, chat, payload, before = ready.model, ready.chat, ready.payload, ready.before
    steps = config.grpo.max_num_steps
    if before is not None and (before["step"] >= steps or stopped_early(store, config)):
        if progress is not None:
            took = f" for {before['step']} steps; another run needs another --run" if before["step"] > steps else ""
            progress(steps, steps, f"was trained before{took}; this is its checkpoint")
        return before
    with start_run(store, "grpo", config.run, payload) as run:
        # Refuses the folder of another run before an engine starts.
        checkpoint_folder(run, config.checkpointing.checkpoint_dir)
        checkpoints = RunCheckpoints(run, config.checkpointing, chat.tokenizer, payload["model_hash"])
        with own_ray(config):
            if engine is None and progress is not None:
                progress(0, steps, "starting the engine")
            with (
                open_processes(config, model, chat, engine, checkpoints) as (engine, learner),
                open_parts(store, config, ready.environment, engine, learner, run, model, chat) as parts,
            ):
                return run_grpo(parts, ready.tasks, progress, viewer)


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
    first = parts.checkpoints.load_newest(parts.learner, parts.last_planned) + 1
    stop = EarlyStop(parts.run, config.grpo.early_stop, [step for step in range(first) if validated(config, step)])
    stopped = stop.reason if first > 1 else None
    with StepSampler(parts, tasks) as sampler:
        parts.sync.push(first - 1)
        check_first_push(parts, tasks, first - 1)
        sampler.admit(first - 1)
        if first == 1 and config.grpo.val_at_start:
            numbers = validate(parts, 0)
            stopped = stop.saw(0, numbers)
            tracker.log(0, numbers)
        for step in range(first, steps + 1 if not stopped else first):
            numbers = take_step(parts, tasks, step, sampler, viewer)
            if validated(config, step):
                numbers |= validate(parts, step)
                stopped = stop.saw(step, numbers)
            tracker.log(step, numbers)
            saving = due(step, config.checkpointing.save_period or 0) or step == steps or stopped
            if saving or tracker.due():
                parts.commits.begin(tracker.flush)
            if saving:
                parts.commits.wait()  # a run that continues from here takes none of these steps again
                row = parts.checkpoints.save(parts.learner, step, numbers)
            if viewer is not None:
                viewer.numbers(step, numbers | ({"checkpoint/step": float(row["step"])} if row else {}))
            if progress is not None:
                progress(step, steps, one_line(numbers))
            if stopped:
                break
    # Without a row it was interrupted between its last step and its end.
    row = row or parts.checkpoints.saved(parts.learner, first - 1)
    kept = {"path": stored_path(parts.run.store, Path(row["path"])), "weights_hash": row["weights_hash"]}
    how = {"stopped": stopped} if stopped else {}
    parts.run.finish({"checkpoint": row["checkpoint_id"], **kept, "steps": row["step"], **how, **numbers})
    return row


def take_step(
    parts: Parts, tasks: Sequence[Task], step: int, sampler: StepSampler, viewer: Viewer | None
) -> dict[str, float]:
    """One step, from its batch to the engine's new weights; returns its numbers."""
    watch = Stopwatch(partial(viewer.phase, step) if viewer is not None else None)
    batch = batch_of(parts, tasks, step, sampler, watch)
    sampler.foresee(step + 1)
    result = train(parts, batch, watch)
    sampler.check()
    measured = validated(parts.config, step) or step == parts.config.grpo.max_num_steps
    pushed = sync(parts, sampler, step, watch, check=measured or bool(result.outcomes))
    if measured:
        pushed |= end_check(parts)  # validations and checkpoints are of verified weights
    return step_metrics(parts, batch, result, watch) | pushed


def train(parts: Parts, batch: Batch, watch: Stopwatch) -> StepResult:
    """One optimizer step.

    The batch and its plan are in the store before a weight changes; when it returns, the commit of its outcomes has begun.
    """
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
        # A learner of this process computes its gradient meanwhile; a group of ranks begins when the batch is committed.
        result = parts.learner.step(samples, micro_batches, committed)
    parts.commits.begin(partial(commit_outcomes, parts.store, parts.run, plan.step, result.outcomes))
    return result


def sync(parts: Parts, sampler: StepSampler, step: int, watch: Stopwatch, check: bool = True) -> dict[str, float]:
    """Gives the engine the weights after `step`, begins the steps that they admit, and compares engine and learner if `check` (a step that trained nothing leaves the weights that were compared).

    An asynchronous run does not wait for the comparison: its number is that of the push before.
    """
    with watch("verify"):
        numbers = end_check(parts)
    with ExitStack() as until_pushed:
        if not parts.config.grpo.async_grpo.in_flight_weight_updates:
            with watch("drain"):
                until_pushed.enter_context(sampler.quiet())
        with watch("sync"):
            parts.sync.push(step)
    sampler.admit(step)
    with watch("verify"):
        if check:
            begin_check(parts, step, step)
        return numbers if parts.config.grpo.async_grpo.enabled else end_check(parts)


def check_first_push(parts: Parts, tasks: Sequence[Task], version: int) -> None:
    """Compares engine and learner on prompts, before anything is sampled: a model that cannot be pushed is refused here. Raises EngineError."""
    prompts = [parts.policy.chat.prompt_ids(task) for task in tasks[:FIRST_PROMPTS]]
    shortest = sorted(prompts, key=len)[:2]
    parts.probe = [TrainSample("", prompt, [], [], []) for prompt in shortest if len(prompt) > 1]
    begin_check(parts, version, version)
    end_check(parts)
    parts.probe = []


def begin_check(parts: Parts, step: int, version: int) -> None:
    """Begins to compare engine and learner on the probe."""
    tolerance, by_mean = parts.config.policy.generation.sync_tolerance, low_precision(parts.config) is not None
    parts.checking = begin_verification(parts.learner, parts.engine, parts.probe, version, step, tolerance, by_mean)


def end_check(parts: Parts) -> dict[str, float]:
    """The largest difference found by the comparison in progress; empty without one. Raises EngineError naming the step."""
    checking, parts.checking = parts.checking, None
    gap = None if checking is None else checking.result()
    return {} if gap is None else {"mismatch/sync_max_abs": gap}


def step_metrics(parts: Parts, batch: Batch, result: StepResult, watch: Stopwatch) -> dict[str, float]:
    """All numbers of a step but the validation's."""
    numbers = (
        rollout_metrics(batch.rollouts, batch.plan.mixed) | plan_metrics(batch.plan) | batch.metrics | result.metrics
    )
    numbers |= {f"time/{phase}": seconds for phase, seconds in watch.seconds.items()}
    numbers["time/store_behind"] = batch.behind_s + parts.commits.take_seconds()  # beside the step, which did not wait
    numbers["time/step"] = watch.total()
    if parts.config.policy.lora is not None:
        numbers["sync/adapters"] = float(parts.sync.adapters)
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
