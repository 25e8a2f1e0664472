"""Online GRPO: groups of rollouts from the current policy, advantages, one optimizer step, new weights for the engine.

`train_grpo` opens what a run needs, `run_grpo` is the loop; read it top-down. What a step trains on is in the house before the
step (rollouts, then the plan), so a run that was cut short goes on by training its stored steps again, without generating.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...collect.chat import ChatFormat
from ...collect.engines.base import TokenEngine
from ...collect.engines.cluster import ensure_ray, shutdown_ray
from ...collect.engines.vllm_actor import open_vllm
from ...collect.environments.registry import NAMES, environment_hash, load_environment
from ...collect.models import weights_hash
from ...collect.policies import TokenPolicy
from ...collect.runner import collect
from ...collect.types import Environment, Task
from ...eval.environment import evaluate_policy
from ...store.errors import ConfigError
from ...store.runs import Run, start_run
from ...store.writer import RolloutWriter
from ...transform.materialize import grpo_tasks
from ...transform.versions import get_dataset
from ..checkpoints import checkpoint_folder, finished_before, resolve_model, save_checkpoint
from ..retention import keep_best
from ..tracking import Tracker
from .batch import Sample
from .config import GrpoConfig
from .learner import StepResult
from .learner_actor import RemoteLearner
from .ledger import commit_outcomes, commit_plan, read_batch, read_rollouts, stored_plan
from .metrics import plan_metrics, rollout_metrics
from .plan import BatchPlan, make_plan
from .prompts import prompts_of_step
from .settings import (
    MAY_CHANGE,
    engine_options,
    gpu_shares,
    learner_settings,
    plan_options,
    plan_settings,
    rollouts_in_flight,
    sampling,
)
from .stopwatch import Stopwatch
from .sync import choose_probe, push_weights, verify_weights, weights_folder

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
            if engine is not None:
                return run_grpo(house, config, tasks, environment, engine, run, model, progress)
            if progress is not None:
                progress(0, steps, "starting the engine")
            engine = open_vllm(model, stop_ids=chat.stop_token_ids, **engine_options(config, cluster_gpus()))
            try:
                return run_grpo(house, config, tasks, environment, engine, run, model, progress)
            finally:
                engine.close()


@contextmanager
def own_ray() -> Iterator[None]:
    """A Ray cluster: the one that this process has, else one that ends with the block."""
    started = ensure_ray()
    try:
        yield
    finally:
        if started:
            shutdown_ray()


def cluster_gpus() -> float:
    """GPUs of the cluster."""
    import ray

    return ray.cluster_resources().get("GPU", 0)


def open_environment(config: GrpoConfig, tasks: Sequence[Task]) -> Environment:
    """The environment of the configuration, or the one that all tasks belong to. Raises ConfigError when they are not of that one."""
    names = sorted({task.environment for task in tasks})
    wanted = config.environment
    environment, other = None, wanted.name in NAMES and wanted.name not in names
    if len(names) == 1 and not other:
        spec = wanted.name or names[0]
        environment = load_environment(spec, tables=wanted.tables, tasks=wanted.tasks, seed=wanted.seed)
    if environment is None or environment.name != names[0]:
        called = "" if environment is None or environment.name == wanted.name else f" ({environment.name})"
        raise ConfigError(
            f"The prompts of {config.dataset} are of {', '.join(names) or 'no environment'}, "
            f"the configuration's environment is {wanted.name or 'that of the prompts'}{called}.",
            "Build the set from rollouts of one environment (`--environment`), and name that one or none; environment.name takes what `--env` takes.",
        )
    return environment


@dataclass
class Parts:
    """What the phases of a step work with.

    Attributes:
        model_hash: weights_hash of the model the run starts from.
        weights: Folder through which weights are pushed.
        probe: Sequences that engine and learner are compared on; the latest batch that had any.
    """

    house: "House"
    config: GrpoConfig
    run: Run
    environment: Environment
    engine: TokenEngine
    policy: TokenPolicy
    learner: RemoteLearner
    tracker: Tracker
    model_hash: str
    weights: Path
    probe: list[Sample] = field(default_factory=list)


def run_grpo(
    house: "House",
    config: GrpoConfig,
    tasks: Sequence[Task],
    environment: Environment,
    engine: TokenEngine,
    run: Run,
    model: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The loop over prompts given as tasks; `train_grpo` says the rest. Ray must be running."""
    steps = config.grpo.max_num_steps
    settings = learner_settings(config)
    row: dict[str, Any] = {}
    with (
        weights_folder() as weights,
        RemoteLearner(str(model), settings, gpu_shares(cluster_gpus(), settings.device)[1]) as learner,
        Tracker(run, config.logger, run.config) as tracker,
        RolloutWriter(house, run),  # one for all steps: it remembers which prompts and tasks are in the house
    ):
        policy = TokenPolicy(engine, ChatFormat.of(model, config.policy.chat), policy_id=run.run_id)
        parts = Parts(house, config, run, environment, engine, policy, learner, tracker, weights_hash(model), weights)
        push_weights(learner, engine, 0, weights)
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
    run.finish({"checkpoint": row["checkpoint_id"], **kept, "steps": steps, **numbers})
    return row


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


def playing(config: GrpoConfig) -> dict[str, Any]:
    """Options of `collect` that training and validation share."""
    return {
        "max_turns": config.environment.max_turns,
        "concurrency": rollouts_in_flight(config),
        "time_limit_s": config.policy.generation.time_limit_s,
    }


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


def validate(parts: Parts, step: int) -> dict[str, float]:
    """Pass rate at temperature 1 on the validation tasks; the rollouts belong to a run `<run>-val-<step>` of kind eval."""
    config = parts.config
    tasks = list(parts.environment.tasks("validation"))[: config.grpo.max_val_samples]
    payload = {"run": parts.run.run_id, "step": step, "model_hash": None}
    with start_run(parts.house, "eval", f"{parts.run.run_id}-val-{step}", payload) as run:
        summary = evaluate_policy(
            parts.house,
            run,
            parts.environment,
            parts.policy,
            tasks,
            mode="sampled",
            sampling=sampling(config, step),
            **playing(config),
        )
        run.finish({"pass_rate": summary.pass_rate, "stderr": summary.stderr, "n": summary.n})
    return {"val/accuracy": summary.pass_rate, "val/stderr": summary.stderr, "val/n": float(summary.n)}


def save(parts: Parts, step: int, numbers: dict[str, float]) -> dict[str, Any]:
    """A checkpoint `step_N` and its row; of the earlier ones those stay that the configuration keeps."""
    row = save_checkpoint(
        parts.house,
        parts.run,
        parts.learner,
        parts.policy.chat.tokenizer,
        step,
        parts.config.checkpointing.checkpoint_dir,
        dataset=parts.run.config.get("dataset"),
        metrics=numbers,
        parent_hash=parts.model_hash,
    )
    keep_best(parts.house, parts.run.run_id, parts.config.checkpointing)
    return row


def step_metrics(batch: Batch, result: StepResult, watch: Stopwatch) -> dict[str, float]:
    """All numbers of a step but the validation's."""
    numbers = rollout_metrics(batch.rollouts) | plan_metrics(batch.plan) | result.metrics
    numbers |= {f"time/{phase}": seconds for phase, seconds in watch.seconds.items()}
    numbers["time/step"] = watch.total()
    if batch.n_new_tokens is not None:
        numbers["tokens_per_s"] = batch.n_new_tokens / numbers["time/step"]
    return numbers


def refuse_other_settings(plan: BatchPlan, settings: dict[str, Any]) -> None:
    """A run goes on only with the settings it was started with. Raises ConfigError naming the first that differs."""
    for name in settings:
        if plan.settings.get(name) != settings[name]:
            raise ConfigError(
                f"Run {plan.run_id} trained step {plan.step} with other settings ({name}).",
                "Give this run another name, or the settings of before (`rollhouse runs show`).",
            )


def due(step: int, period: int) -> bool:
    """Whether something done every `period` steps is done after this one; 0 is never."""
    return period > 0 and step % period == 0


def one_line(numbers: dict[str, float]) -> str:
    """A step for the terminal."""
    shown = {"reward": "train/reward", "loss": "train/loss", "grad": "train/grad_norm", "val": "val/accuracy"}
    parts = [f"{label} {numbers[name]:.3f}" for label, name in shown.items() if name in numbers]
    return "  ".join([*parts, f"{numbers['time/step']:.1f} s"])
