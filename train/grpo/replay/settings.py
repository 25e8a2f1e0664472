"""A stored run's configuration, and which of its settings a replay may change."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from ....base.errors import ConfigError
from ....policies.config import ChatOptions
from ....store.runs import get_run
from ..config import GrpoConfig
from ..settings import learner_settings, plan_options

if TYPE_CHECKING:
    from ....store.lance_store import LanceStore

FREE = (
    "loss_fn",
    "policy.optimizer",
    "policy.max_grad_norm",
    "policy.precision",
    "policy.lora",
    "policy.shared_prefix",
    "policy.train_mb_tokens",
    "grpo.num_updates_per_batch",
    "grpo.on_nonfinite",
    "grpo.normalize_rewards",
    "grpo.use_leave_one_out_baseline",
    "grpo.whiten_advantages",
    "grpo.overlong_filtering",
    "grpo.reward_shaping",
    "cluster.learner_ranks",
)
"""What decides how batches are made of rollouts, and what is learned from them."""

BESIDE = (
    "run",
    "grpo.max_num_steps",
    "policy.threads",
    "policy.device",
    "policy.logprob_chunk_tokens",
    "policy.activation_checkpointing",
    "checkpointing",
    "cluster",
    "ray",
    "logger",
)
"""What may change without being another training: where it runs, what it keeps, how far it goes."""


def stored_config(store: "LanceStore", run_id: str) -> GrpoConfig:
    """The configuration of a GRPO run as it was last started, with `run` set to its id.

    The chat section is left at its defaults: a replay renders nothing. Raises StoreNotFound for a run there is not, ConfigError for one
    of another kind.
    """
    run = get_run(store, run_id)
    if run["kind"] != "grpo":
        raise ConfigError(
            f"Run {run_id!r} is of kind {run['kind']}; a replay is of a run of kind grpo.",
            "Name a run of `rollhouse train grpo`; `rollhouse runs reproduce` trains one of sft or dpo again.",
        )
    values = _known(run["config"], GrpoConfig) | {"run": run_id}
    return GrpoConfig.model_validate(values)


def changed_settings(before: GrpoConfig, after: GrpoConfig) -> dict[str, tuple[Any, Any]]:
    """`section.key` → (before, after) of what differs. Raises ConfigError naming one that decides what was generated."""
    old, new = _leaves(before.model_dump(mode="json")), _leaves(after.model_dump(mode="json"))
    differing = {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}
    for key, (was, now) in differing.items():
        if not _among(key, (*FREE, *BESIDE)):
            raise ConfigError(
                f"A replay cannot change {key}: its rollouts were made with {was!r}, not {now!r}.",
                f"It takes changes of {', '.join(FREE)}; for others start a run with `rollhouse train grpo`.",
            )
    return differing


def changes_plans(before: GrpoConfig, after: GrpoConfig) -> bool:
    """Whether the plans of the steps have to be made anew."""
    return plan_options(before) != plan_options(after)


def changes_learning(before: GrpoConfig, after: GrpoConfig) -> bool:
    """Whether other weights are to be expected."""
    ranks = before.cluster.learner_ranks != after.cluster.learner_ranks
    learner = learner_settings(before).to_dict() != learner_settings(after).to_dict()
    return ranks or learner or changes_plans(before, after)


def refuse_other_weights(changed: Mapping[str, Any]) -> None:
    """Raises ConfigError for a change with which the learner's state between two steps cannot be taken over."""
    adapters = [key for key in changed if _among(key, ("policy.lora",))]
    if adapters:
        raise ConfigError(
            f"A replay cannot change {adapters[0]} between two steps: other weights are trained.",
            "Leave --from-step out.",
        )


def _among(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _known(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Without what the run's row holds besides settings: hashes of the files that they name."""
    found = {}
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None or field.annotation is ChatOptions:
            continue
        candidates = (field.annotation, *get_args(field.annotation))
        section = next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)
        found[key] = _known(value, section) if section is not None and isinstance(value, dict) else value
    return found
