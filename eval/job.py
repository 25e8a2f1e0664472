"""What the command line and a script ask for: a policy by name, evaluated in a run of its own."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..base.errors import ConfigError
from ..collect.runner import CollectSummary, refuse_other_config
from ..environments.registry import load_environment, tasks_of
from ..policies.chat_options import ChatOptions
from ..policies.opening import check_engine, model_hash, open_policy
from ..policies.types import Sampling
from ..store.lance_store import LanceStore
from ..store.rollout import Rollout
from ..store.runs import start_run
from .bfcl import BfclSummary, evaluate_bfcl
from .bfcl.categories import categories_named
from .bfcl.checker import require_bfcl
from .environment import check_mode, evaluate_policy
from .summary import EvalSummary


@dataclass(frozen=True)
class PolicyChoice:
    """Which policy, as in `collect.opening.open_policy`; `model` is a folder for vllm and torch."""

    engine: str = "scripted"
    model: str | None = None
    max_model_len: int | None = None
    mistake_rate: float = 0.0
    seed: int = 0
    chat: ChatOptions = field(default_factory=ChatOptions)
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1

    def config(self) -> dict[str, Any]:
        """For the run's configuration, with the hash of the weights. Raises ConfigError when there is no such policy."""
        check_engine(self.engine, self.model, self.tensor_parallel_size, self.data_parallel_size)
        if self.engine == "scripted" and self.model is not None:
            said = f"The scripted engine plays a script: it would not evaluate {self.model!r}."
            raise ConfigError(said, "Name an engine that loads models, as --engine vllm.")
        # How many devices answer changes nothing about what is evaluated, so a run may go on with other sizes.
        told = {name: value for name, value in asdict(self).items() if not name.endswith("_parallel_size")}
        return {**told, "chat": self.chat.config(), "model_hash": model_hash(self.engine, self.model)}

    def open(self, max_turns: int = 6) -> Any:
        """Context manager of the policy; the scripted one fits its calls into `max_turns`."""
        return open_policy(
            self.engine,
            self.model,
            mistake_rate=self.mistake_rate,
            seed=self.seed,
            max_turns=max_turns,
            max_model_len=self.max_model_len,
            chat=self.chat,
            tensor_parallel_size=self.tensor_parallel_size,
            data_parallel_size=self.data_parallel_size,
        )


@dataclass(frozen=True)
class EnvironmentJob:
    """An evaluation on an environment; `seed` is also that of generated tasks, `tasks_split` as in `load_environment`."""

    environment: str
    tables: str | None = None
    tasks: str | None = None
    split: str = "validation"
    limit: int | None = None
    mode: str = "greedy"
    samples: int = 1
    temperature: float = 1.0
    max_tokens: int = 256
    max_turns: int = 6
    seed: int = 0
    tasks_split: str | None = None


@dataclass(frozen=True)
class BfclJob:
    """An evaluation on BFCL categories and groups; `limit` is per category, None for all of it; `mode` is `fc` or `prompt`."""

    categories: tuple[str, ...]
    limit: int | None = None
    max_tokens: int = 256
    mode: str = "fc"


def run_environment_job(
    store: LanceStore,
    job: EnvironmentJob,
    choice: PolicyChoice,
    name: str | None = None,
    *,
    concurrency: int = 64,
    on_start: Callable[[int], None] | None = None,
    on_done: Callable[[Rollout, CollectSummary], None] | None = None,
) -> tuple[str, EvalSummary]:
    """Evaluates in a run of kind `eval`, resuming the one of that name, and returns its id and the summary.

    `on_start` gets the number of rollouts; `on_done` is called as in `collect`. Raises what `evaluate_policy` and `start_run` raise.
    """
    config = {**choice.config(), **asdict(job)}
    greedy = job.mode == "greedy"
    sampling = Sampling(temperature=0.0 if greedy else job.temperature, max_tokens=job.max_tokens, seed=job.seed)
    check_mode(job.mode, job.samples, sampling)
    environment = load_environment(job.environment, job.tables, job.tasks, job.seed, job.tasks_split)
    tasks = tasks_of(environment, job.split, job.limit)
    if name is not None:
        refuse_other_config(store, name, config)
    with start_run(store, "eval", name, config) as run:
        if on_start:
            on_start(len(tasks) * job.samples)
        with choice.open(job.max_turns) as policy:
            summary = evaluate_policy(
                store,
                run,
                environment,
                policy,
                tasks,
                job.mode,
                job.samples,
                sampling=sampling,
                max_turns=job.max_turns,
                concurrency=concurrency,
                on_done=on_done,
            )
        run.finish(asdict(summary))
    return run.run_id, summary


def bfcl_config(job: BfclJob, choice: PolicyChoice) -> dict[str, Any]:
    """What a run of the benchmark keeps as its configuration. Raises ConfigError for a policy or category there is not."""
    return {**choice.config(), **asdict(job), "categories": categories_named(list(job.categories), job.mode)}


def run_bfcl_job(
    store: LanceStore,
    job: BfclJob,
    choice: PolicyChoice,
    name: str | None = None,
    *,
    concurrency: int = 32,
    on_start: Callable[[], None] | None = None,
    on_cases: Callable[[int], None] | None = None,
    on_done: Callable[[], None] | None = None,
) -> tuple[str, BfclSummary]:
    """Evaluates in a run of kind `eval`, resuming the one of that name, and returns its id and the summary.

    `on_start` is called before the engine starts, the others as in `evaluate_bfcl`. Raises what `evaluate_bfcl` and `start_run` raise.
    """
    config = bfcl_config(job, choice)
    require_bfcl(config["categories"])  # before an engine is started for nothing
    if name is not None:
        refuse_other_config(store, name, config)
    with start_run(store, "eval", name, config) as run:
        if on_start:
            on_start()
        with choice.open() as policy:
            summary = evaluate_bfcl(
                store,
                run,
                policy,
                job.categories,
                mode=job.mode,
                limit=job.limit,
                sampling=Sampling(temperature=0.0, max_tokens=job.max_tokens),
                concurrency=concurrency,
                on_cases=on_cases,
                on_done=on_done,
            )
        run.finish({"accuracy": summary.accuracy, **asdict(summary)})
    return run.run_id, summary
