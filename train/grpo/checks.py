"""Pre-flight checks: what would fail later is refused before an engine starts."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ...base.errors import ConfigError
from ...environments.config import OF_ONE, EnvironmentSpec, PlayedEnvironment
from ...environments.harness import refuse_unplayable
from ...environments.mixture import group_rubrics, harnesses_of, open_mixture, parts_of, weights_of
from ...environments.registry import NAMES, tasks_of
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
    """The environments of the configuration, or those that the tasks belong to. Raises ConfigError when the two differ."""
    wanted, counts = config.environment, Counter(task.environment for task in tasks)
    names = sorted(counts)
    if wanted.name in NAMES and wanted.name not in names:
        raise _of_other_environments(config, names, wanted.name)
    if wanted.mixture:
        specs = wanted.specs()
    elif len(names) == 1:
        specs = wanted.model_copy(update={"name": wanted.name or names[0]}).specs()
    else:
        specs = _of_the_prompts(config, counts)
    environment = open_mixture(specs, wanted.seed)
    parts = list(parts_of(environment))
    if sorted(parts) != names:
        called = wanted.name if wanted.name in (None, *parts) else f"{wanted.name} ({parts[0]})"
        raise _of_other_environments(config, names, called or ", ".join(parts))
    return environment


def _of_the_prompts(config: "GrpoConfig", counts: Mapping[str, int]) -> list[EnvironmentSpec]:
    """An entry for each environment that the prompts name. Raises ConfigError where a setting is of one environment."""
    wanted, default = config.environment, PlayedEnvironment()
    own = [key for key in OF_ONE if getattr(wanted, key) != getattr(default, key)]
    if own or not counts:
        raise _of_other_environments(config, sorted(counts), wanted.name or "not named")
    return [EnvironmentSpec(name=name, weight=count) for name, count in sorted(counts.items())]


def _of_other_environments(config: "GrpoConfig", names: Sequence[str], called: str) -> ConfigError:
    return ConfigError(
        f"The prompts of {config.dataset} belong to {', '.join(names) or 'no environment'}; the configuration's environment is {called}.",
        "Name the environments of the prompts, several under environment.mixture, or build the set from other rollouts (`--environment`).",
    )


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
    refuse_unplayable(harnesses_of(environment).values(), "vllm")
    if grpo.val_at_start or grpo.val_at_end or grpo.val_period:
        tasks_of(environment, "validation", 1)
    load_loss(config.loss_fn.custom)
    load_advantage(grpo.advantage)
    refuse_group_of_one(config)
    refuse_long_context(config, context)
    refuse_long_prompts(config, tasks, chat)
    warn_of_small_set(config, tasks, environment)
    refuse_low_precision(config)
    refuse_sleep(config)
    refuse_bad_warm_start(store, config)
    refuse_bad_query(store, config, tasks)
    refuse_ranked_without_groups(config, environment)


def refuse_ranked_without_groups(config: "GrpoConfig", environment: Environment) -> None:
    """Raises ConfigError where groups that a rubric is to compare would be dropped, or taken, without it."""
    other = "grpo.use_dynamic_sampling" if config.grpo.use_dynamic_sampling else "grpo.warm_start" if config.grpo.warm_start.runs else None  # fmt: skip
    if other is not None and group_rubrics(environment):
        raise ConfigError(
            f"rubric.compare=group does not go with {other}, which looks at the verifier's rewards alone.",
            "Remove one of them, or set rubric.compare=each.",
        )


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


def warn_of_small_set(config: "GrpoConfig", tasks: Sequence[Task], environment: Environment) -> None:
    """Warns of a set, or an environment's part of it, with fewer prompts than a step takes: every step trains on all of it."""
    wanted, n_tasks = config.grpo.num_prompts_per_step, len(tasks)
    counts, weights = Counter(task.environment for task in tasks), weights_of(environment) or {}
    for name, weight in weights.items() if config.environment.mixture else ():
        share = math.ceil(wanted * weight / sum(weights.values()))
        if counts[name] < share:
            log.warning("%s has %d prompts of %s, whose share of a step is up to %d: steps have fewer prompts than grpo.num_prompts_per_step.", config.dataset, counts[name], name, share)  # fmt: skip
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
