"""Pre-flight checks: what would fail later is refused before an engine starts."""

import logging
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ...base.errors import ConfigError
from ...environments.registry import NAMES, load_environment, tasks_of
from ...environments.types import Environment
from ...policies.chat import ChatFormat
from ...store.task import Task
from .custom import load_advantage, load_loss
from .history import refuse_bad_warm_start
from .learner.settings import learner_device
from .prompts import refuse_bad_query

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from .config import GrpoConfig

log = logging.getLogger("rollhouse")

LOOKED_AT = 2000
"""Prompts whose length is checked."""
LOW_PRECISION = ("bfloat16", "float16", "half")
ROUNDING = 5e-3
"""What engines in low precision differ by, at least, from a learner in float32."""


def open_environment(config: "GrpoConfig", tasks: Sequence[Task]) -> Environment:
    """The environment of the configuration, or the one that all tasks belong to. Raises ConfigError when they are not of that one."""
    names = sorted({task.environment for task in tasks})
    wanted = config.environment
    environment, other = None, wanted.name in NAMES and wanted.name not in names
    if len(names) == 1 and not other:
        spec = wanted.name or names[0]
        environment = load_environment(
            spec, tables=wanted.tables, tasks=wanted.tasks, seed=wanted.seed, tasks_split=wanted.tasks_split
        )
    if environment is None or environment.name != names[0]:
        called = "" if environment is None or environment.name == wanted.name else f" ({environment.name})"
        raise ConfigError(
            f"The prompts of {config.dataset} belong to {', '.join(names) or 'no environment'}, "
            f"the configuration's environment is {wanted.name or 'that of the prompts'}{called}.",
            "Build the set from rollouts of one environment (`--environment`), and name that one or none; environment.name takes what `--env` takes.",
        )
    return environment


def refuse_what_cannot_run(
    store: "LanceStore",
    config: "GrpoConfig",
    environment: Environment,
    tasks: Sequence[Task],
    chat: ChatFormat,
    context: int | None,
) -> None:
    """Raises ConfigError (StoreNotFound, QueryError) for a run that would fail, naming the setting to change.

    Args:
        context: The model's context length in tokens; None when its config states none.
    """
    grpo = config.grpo
    if grpo.val_at_start or grpo.val_at_end or grpo.val_period:
        tasks_of(environment, "validation", 1)
    load_loss(config.loss_fn.custom)
    load_advantage(grpo.advantage)
    refuse_group_of_one(config)
    refuse_long_context(config, context)
    refuse_long_prompts(config, tasks, chat)
    say_small_set(config, len(tasks))
    refuse_low_precision(config)
    refuse_sleep(config)
    refuse_bad_warm_start(store, config)
    refuse_bad_query(store, config, tasks)


def refuse_group_of_one(config: "GrpoConfig") -> None:
    """Raises ConfigError for groups in which nothing can be compared: every advantage would be 0."""
    if config.grpo.num_generations_per_prompt == 1 and config.grpo.advantage is None:
        raise ConfigError(
            "grpo.num_generations_per_prompt=1 leaves a rollout nothing to be compared with: every advantage is 0 and nothing is learned.",
            "Set it to 2 or more, or name your own advantage in grpo.advantage.",
        )


def refuse_long_context(config: "GrpoConfig", context: int | None) -> None:
    """Raises ConfigError for sequences longer than the model accepts."""
    limit = config.policy.max_total_sequence_length
    if context is not None and limit > context:
        raise ConfigError(
            f"policy.max_total_sequence_length={limit} is more than the model's context of {context} tokens.",
            f"Set it to {context} or less, or train a model with a longer context.",
        )


def say_small_set(config: "GrpoConfig", n_tasks: int) -> None:
    """Warns of a set with fewer prompts than a step takes: every step trains on all of it."""
    wanted = config.grpo.num_prompts_per_step
    if n_tasks < wanted:
        log.warning("%s has %d prompts and grpo.num_prompts_per_step is %d: every step trains on all %d.", config.dataset, n_tasks, wanted, n_tasks)  # fmt: skip


def refuse_long_prompts(config: "GrpoConfig", tasks: Sequence[Task], chat: ChatFormat) -> None:
    """Raises ConfigError when a prompt leaves no room for an answer."""
    limit = config.policy.max_total_sequence_length
    lengths = [len(chat.prompt_ids(task)) for task in islice(tasks, LOOKED_AT)]
    too_long = [length for length in lengths if length >= limit]
    if too_long:
        raise ConfigError(
            f"{len(too_long)} of {len(lengths)} prompts of {config.dataset} fill policy.max_total_sequence_length ({limit}); "
            f"the longest has {max(too_long)} tokens.",
            "Raise it, or build the set without them.",
        )


def low_precision(config: "GrpoConfig") -> str | None:
    """Which of engine and learner computes in low precision, the engine first; None for neither."""
    generation, on_gpu = config.policy.generation, learner_device(config.policy.device).startswith("cuda")
    dtype = str((generation.vllm.model_extra or {}).get("dtype", "auto"))
    # On a GPU vLLM's default is the model folder's dtype, which is bfloat16 for most.
    if dtype in LOW_PRECISION or (dtype == "auto" and on_gpu):
        return "engine"
    return "learner" if config.policy.precision == "bfloat16" else None


def refuse_low_precision(config: "GrpoConfig") -> None:
    """Raises ConfigError for an engine or a learner whose rounding would fail the check after a weight push."""
    who, tolerance = low_precision(config), config.policy.generation.sync_tolerance
    if who is not None and tolerance < ROUNDING:
        raise ConfigError(
            f"The {who} computes in low precision, so engine and learner differ by more than policy.generation.sync_tolerance={tolerance:g}.",
            "Set it to 0.05, or policy.generation.vllm.dtype=float32 and policy.precision=float32.",
        )


def refuse_sleep(config: "GrpoConfig") -> None:
    """Raises ConfigError for sleep_while_training where it cannot work."""
    if not config.policy.generation.sleep_while_training:
        return
    if config.grpo.async_grpo.enabled or not learner_device(config.policy.device).startswith("cuda"):
        raise ConfigError(
            "policy.generation.sleep_while_training needs an engine that shares a GPU with the learner and alternates with it.",
            "Leave it out on a CPU and with grpo.async_grpo.enabled.",
        )
