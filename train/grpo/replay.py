"""Takes the optimizer steps of a run again, from its stored batches: no engine, no environment, no token generated.

With the run's own settings the weights are the same, bit for bit, on the same machine. With other settings it is an ablation: what this loss, or this
learning rate, makes of the same rollouts.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import ConfigError
from ...policies.models import load_tokenizer
from ...store.run_settings import run_payload
from ...store.runs import Run, list_runs, start_run
from ..checkpoints import checkpoint_folder, keep_best, save_checkpoint
from ..runs import COMPARED, Difference, first_difference, free_name
from ..tracking import Tracker
from .config import GrpoConfig
from .learner.settings import learner_settings
from .learner.update import StepResult
from .ledger import (
    commit_outcomes,
    commit_plan,
    read_batch,
    read_planned,
    read_planned_samples,
    stored_plan,
    take_stored,
)
from .metrics import Stopwatch, Viewer, one_line, plan_metrics, rollout_metrics
from .original import (
    Original,
    changed_settings,
    changes_learning,
    changes_plans,
    read_original,
    refuse_other_weights,
    steps_to_take,
)
from .plan import BatchPlan, kl_off_rewards, make_plan, step_settings
from .ranking import with_ranks
from .teacher import taught_before

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes:
        run_id: The run whose batches were trained on.
        replay: The run that did.
        first_step, last_step: The steps it took.
        changed: `section.key` → (before, after).
        plans: `stored`, or `made anew` (again, from the stored rollouts).
        compared: Steps whose weights were compared, of which the run has a checkpoint.
        identical: Whether every compared weight and number is the same, bit for bit; None when settings that decide what is learned were
            changed, so that nothing was compared.
        difference: The first one; None when there is none, or nothing was compared.
        checkpoint: Row of the last checkpoint.
    """

    run_id: str
    replay: str
    first_step: int
    last_step: int
    changed: dict[str, tuple[Any, Any]]
    plans: str
    compared: list[int]
    identical: bool | None
    difference: Difference | None
    checkpoint: dict[str, Any]


def replay(
    store: "LanceStore",
    run_id: str,
    config: GrpoConfig | None = None,
    *,
    from_step: int = 1,
    run: str | None = None,
    progress: Progress | None = None,
    viewer: Viewer | None = None,
) -> Replay:
    """Takes the optimizer steps of a GRPO run again on its stored batches, as a run of kind `replay`.

    Args:
        config: The settings to replay with: `original.stored_config` with changes. None changes nothing. A lower `grpo.max_num_steps` ends it earlier.
        from_step: The first step (from 1) that takes the changes; those before are taken with the run's own settings.
        run: Name of the new run; None is `RUN-replay-N`.
        progress: Called after every step with (steps done, steps in all, one line).
        viewer: Notified of every phase and of every step's numbers.

    Raises StoreNotFound for an unknown run; ConfigError for a run that is not of kind grpo, has no such stored batch or whose first model has
    changed, and for a setting that a replay cannot change; TrainingError as training does.
    """
    original = read_original(store, run_id)
    config = config or original.config
    changed = changed_settings(original, config)
    if from_step > 1:
        refuse_other_weights(changed)
    steps = steps_to_take(original, from_step, config.grpo.max_num_steps)
    name = _name(store, original, run or config.run)
    config = _own_logger(original, config)
    payload = _payload(original, config, name, from_step)
    with start_run(store, "replay", name, payload) as again:
        checkpoint_folder(again, config.checkpointing.checkpoint_dir)  # refuses the folder of another run
        with _learner_before(store, original, config, from_step, progress) as learner, Tracker(again, config.logger, payload) as tracker:  # fmt: skip
            parts = _Parts(
                store, original, config, again, learner, tracker, changes_plans(changed, original.config, config)
            )
            numbers = _take_all(parts, steps, progress, viewer)
        identical, difference = None, None
        if not changes_learning(changed):
            difference = _difference(parts, steps)
            identical = difference is None
        row = parts.saved[steps[-1]]
        kept = {"checkpoint": row["checkpoint_id"], "weights_hash": row["weights_hash"]}
        again.finish({**kept, "replay_of": run_id, "identical": identical, "steps": len(steps), **numbers})
    plans = "made anew" if parts.plans_anew else "stored"
    compared = [step for step in steps if step in original.weights]
    return Replay(run_id, name, steps[0], steps[-1], changed, plans, compared, identical, difference, row)


def _own_logger(original: Original, config: GrpoConfig) -> GrpoConfig:
    """With a name of its own at Weights & Biases, where the settings have the original's."""
    if config.logger.wandb.name != original.config.logger.wandb.name:
        return config
    config = config.model_copy(deep=True)
    config.logger.wandb.name = None
    return config


def _payload(original: Original, config: GrpoConfig, name: str, from_step: int) -> dict[str, Any]:
    """What the replay keeps as its configuration."""
    settings = config.model_copy(update={"run": name, "dataset": original.dataset})
    return run_payload(settings, model_hash=original.model_hash, replay_of=original.run_id, from_step=from_step)


@dataclass
class _Parts:
    """What a step works with, and what came of those before.

    Attributes:
        plans_anew: Plans are made from the stored rollouts, not taken as they are.
        numbers: (step, name) → train/loss and train/grad_norm.
        saved: Step → row of its checkpoint.
    """

    store: "LanceStore"
    original: Original
    config: GrpoConfig
    run: Run
    learner: Any
    tracker: Tracker
    plans_anew: bool

    def __post_init__(self) -> None:
        self.numbers: dict[tuple[int, str], float] = {}
        self.saved: dict[int, dict[str, Any]] = {}


def _take_all(parts: _Parts, steps: list[int], progress: Progress | None, viewer: Viewer | None) -> dict[str, float]:
    """All steps, with a checkpoint wherever the run has one; returns the last step's numbers."""
    numbers: dict[str, float] = {}
    for done, step in enumerate(steps, 1):
        numbers = _take(parts, step, viewer)
        if step == steps[-1] or step in parts.original.weights or _due(step, parts.config):
            _save(parts, step, numbers)
        if viewer is not None:
            viewer.numbers(step, numbers | {"checkpoint/step": float(max(parts.saved))} if parts.saved else numbers)
        if progress is not None:
            progress(done, len(steps), one_line(numbers))
    return numbers


def _take(parts: _Parts, step: int, viewer: Viewer | None) -> dict[str, float]:
    """One optimizer step, with its plan and outcomes in the store; returns its numbers."""
    watch = Stopwatch(partial(viewer.phase, step) if viewer is not None else None)
    with watch("store"):
        plan, rollouts = _plan(parts, step)
        commit_plan(parts.store, plan)
        samples, micro_batches = read_batch(parts.store, plan)
    with watch("train"):
        result: StepResult = parts.learner.step(samples, micro_batches)
    with watch("store"):
        commit_outcomes(parts.store, parts.run, step, result.outcomes)
    numbers = rollout_metrics(rollouts, plan.mixed) | plan_metrics(plan) | result.metrics
    numbers |= {f"time/{phase}": seconds for phase, seconds in watch.seconds.items()}
    numbers["time/step"] = watch.total()
    parts.tracker.log(step, numbers)
    parts.numbers |= {(step, name): result.metrics[name] for name in COMPARED if name in result.metrics}
    return numbers


def _plan(parts: _Parts, step: int) -> tuple[BatchPlan, list[dict[str, Any]]]:
    """The step's plan as the replay's own, and the rollouts of the original that it is over."""
    stored = stored_plan(parts.store, parts.original.run_id, step)
    assert stored is not None, "steps_to_take lists those that have one"
    rollouts = read_planned(parts.store, stored)
    settings = step_settings(parts.config, parts.original.model_hash, stored.settings.get("task_ids") or ())
    settings |= {
        "replay_of": {"run_id": parts.original.run_id, "step": step},
        "rollouts_of": stored.settings.get("rollouts_of") or [parts.original.run_id],
    }
    # `learner` had the settings of the step before they were kept by section.
    settings = {name: value for name, value in stored.settings.items() if name != "learner"} | settings
    if not parts.plans_anew:
        settings["plan"] = stored.settings["plan"]  # a run that went on may have changed the size of its micro-batches
        return replace(stored, run_id=parts.run.run_id, settings=settings), rollouts
    kl = _reference_kl(parts, stored) if kl_off_rewards(parts.config) else None
    compared = with_ranks(parts.store, rollouts, stored.settings.get("ranked") or {})
    plan = make_plan(parts.run.run_id, step, compared, parts.config, settings, kl)
    return (taught_before(plan, stored) if parts.config.loss_fn.teacher.model is not None else plan), rollouts


def _reference_kl(parts: _Parts, stored: BatchPlan) -> dict[str, float]:
    """rollout_id → KL of the learner as it is now to the model the run started from, of all rollouts with tokens that the plan names."""
    samples = read_planned_samples(parts.store, stored)
    values = parts.learner.reference_kl(samples)
    return {sample.rollout_id: value for sample, value in zip(samples, values, strict=True)}


def _save(parts: _Parts, step: int, numbers: dict[str, float]) -> None:
    parts.saved[step] = save_checkpoint(
        parts.store,
        parts.run,
        parts.learner,
        load_tokenizer(parts.original.tokenizer),
        step,
        parts.config.checkpointing.checkpoint_dir,
        dataset=parts.original.dataset,
        metrics=numbers,
        parent_hash=parts.original.model_hash,
    )
    keep_best(parts.store, parts.run.run_id, parts.config.checkpointing)


def _due(step: int, config: GrpoConfig) -> bool:
    period = config.checkpointing.save_period
    return period is not None and step % period == 0


def _difference(parts: _Parts, steps: list[int]) -> Difference | None:
    """The first number or checkpoint of the original that differs in the replay."""
    before = {key: value for key, value in parts.original.numbers.items() if key[0] in steps}
    number = first_difference(before, {key: value for key, value in parts.numbers.items() if key in before})
    for step in steps:
        was, now = parts.original.weights.get(step), parts.saved.get(step, {}).get("weights_hash")
        if was is not None and was != now and (number is None or step < number.step):
            return Difference(step, "weights_hash", was, now)
    return number


def _name(store: "LanceStore", original: Original, wanted: str | None) -> str:
    if wanted is None or wanted == original.run_id:
        return free_name(store, original.run_id, "replay")
    if wanted in {run["run_id"] for run in list_runs(store)}:
        raise ConfigError(f"Run {wanted!r} exists.", "Give the replay another name.")
    return wanted


@contextmanager
def _learner_before(
    store: "LanceStore", original: Original, config: GrpoConfig, from_step: int, progress: Progress | None
) -> Iterator[Any]:
    """The learner as it was before `from_step`, with the settings of `config` from there on."""
    if from_step == 1:
        with open_learner(original.model, config) as learner:
            yield learner
        return
    with tempfile.TemporaryDirectory(prefix="rollhouse-replay-") as folder:
        state = _state_before(store, original, from_step, Path(folder), progress)
        with open_learner(original.model, config) as learner:
            learner.load_state(str(state))
            yield learner


def _state_before(
    store: "LanceStore", original: Original, from_step: int, folder: Path, progress: Progress | None
) -> Path:
    """A folder with the learner's state before a step: the run's own, or one made from an earlier state in `folder`."""
    kept = {step: path for step, path in original.states.items() if step < from_step}
    newest = max(kept, default=0)
    if newest == from_step - 1:
        return kept[newest]
    with open_learner(original.model, original.config) as learner:
        if newest:
            learner.load_state(str(kept[newest]))
        for step in take_stored(store, original.run_id, learner, range(newest + 1, from_step)):
            if progress is not None:
                progress(0, from_step - 1, f"step {step} with the run's own settings")
        learner.save_state(str(folder))
    return folder


@contextmanager
def open_learner(model: Path, config: GrpoConfig) -> Iterator[Any]:
    """A learner with as many ranks as the configuration has: one is in this process, several are Ray actors that end with the block."""
    from transformers.utils import logging

    from .learner.learner import Learner

    settings = learner_settings(config)
    if config.cluster.learner_ranks == 1:
        logging.disable_progress_bar()
        yield Learner(str(model), settings)
        return
    from .learner.group import LearnerGroup
    from .processes import own_ray

    gpus = 1.0 if settings.device.startswith("cuda") else 0.0
    cluster = config.cluster
    limits = {"timeout_s": cluster.step_timeout_s, "collective_timeout_s": cluster.collective_timeout_s}
    with own_ray(config), LearnerGroup(str(model), settings, cluster.learner_ranks, gpus, None, **limits) as group:
        yield group
