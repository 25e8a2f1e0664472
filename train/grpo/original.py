"""A stored GRPO run that is to be replayed: what the store knows of it, its configuration, and which settings a replay can change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from ...base.errors import ConfigError
from ...base.recipes import read_recipe, with_changes
from ...policies.config import ChatOptions
from ...store.checkpoint_paths import has_mark, identity_of, located
from ...store.lance_store import quote
from ...store.old_payloads import as_today
from ...store.runs import get_run
from ..checkpoints import folder_of, starting_model
from ..runs import stored_numbers
from .algorithms import switched
from .config import GrpoConfig
from .custom import code_hashes, recorded_hashes
from .plan import has_more_terms, kl_off_rewards

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore

PLANNING = (
    "policy.shared_prefix",
    "policy.train_mb_tokens",
    "grpo.advantage",
    "grpo.normalize_rewards",
    "grpo.normalize_components",
    "grpo.turn_rewards",
    "grpo.use_leave_one_out_baseline",
    "grpo.whiten_advantages",
    "grpo.overlong_filtering",
    "grpo.reward_shaping",
)
"""What decides how batches are made of rollouts, besides the KL taken off rewards."""

LEARNING = (
    "loss_fn",
    "policy.optimizer",
    "policy.max_grad_norm",
    "policy.precision",
    "policy.lora",
    "policy.router_replay",
    "grpo.num_updates_per_batch",
    "cluster.learner_ranks",
)
"""What decides what is learned from a batch."""

FREE = (*LEARNING, *PLANNING, "grpo.on_nonfinite")
"""What a replay can change. Where every loss is finite, grpo.on_nonfinite changes nothing."""

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
"""What can change without being another training: where it runs, what it keeps, how far it goes."""


@dataclass(frozen=True)
class Original:
    """A run and what its replay is compared with.

    Attributes:
        dataset: NAME@VERSION of its prompts.
        model: Folder of the model it started from.
        model_hash: Its weights_hash.
        planned: Steps, from 1 without a gap, whose plan is stored.
        weights: Step → weights_hash of the checkpoint taken after it.
        numbers: (step, name) → train/loss and train/grad_norm.
        states: Step → folder with the learner's state after it, of those that were kept.
        tokenizer: Folder with the tokenizer and chat template it trained with.
        code: SHA-256 of the user's code it trained with, by the setting that names it.
    """

    run_id: str
    config: GrpoConfig
    dataset: str | None
    model: Path
    model_hash: str
    planned: list[int]
    weights: dict[int, str]
    numbers: dict[tuple[int, str], float]
    states: dict[int, Path]
    tokenizer: Path
    code: dict[str, str]


def read_original(store: "LanceStore", run_id: str) -> Original:
    """Raises StoreNotFound for an unknown run, ConfigError for one of another kind, or whose first model has changed."""
    config = stored_config(store, run_id)
    run = get_run(store, run_id)
    model = starting_model(store, run)
    rows = store.read("checkpoints", filter=f"run_id = {quote(run_id)}").to_pylist()
    last = {row["step"]: row for row in sorted(rows, key=lambda row: row["incarnation"])}
    folders = [located(store, row) for _, row in sorted(last.items())]
    return Original(
        run_id=run_id,
        config=config,
        dataset=run["config"]["dataset"],
        model=model,
        model_hash=run["config"]["model_hash"],
        planned=_planned(store, run_id),
        weights={step: row["weights_hash"] for step, row in last.items()},
        numbers=stored_numbers(store, run_id),
        states=_states(store, run_id, config),
        # A template of the user's own is in the checkpoints, not in the model they came from.
        tokenizer=next((folder for folder in reversed(folders) if folder is not None), model),
        code=recorded_hashes(run["config"]),
    )


def steps_to_take(original: Original, from_step: int, max_num_steps: int) -> list[int]:
    """The stored steps from one on, none beyond `max_num_steps`. Raises ConfigError when there is none."""
    steps = [step for step in original.planned if from_step <= step <= max_num_steps]
    if from_step < 1 or not steps:
        there = f"steps 1 to {original.planned[-1]}" if original.planned else "no step"
        raise ConfigError(
            f"Run {original.run_id!r} has no stored batch from step {from_step} to {max_num_steps}; it has {there}.",
            "Give --from-step a step that it planned, or leave it out.",
        )
    return steps


def _planned(store: "LanceStore", run_id: str) -> list[int]:
    there: list[Any] = store.read("batch_plans", ["step"], f"run_id = {quote(run_id)}")["step"].to_pylist()
    steps = set(there)
    return [step for step in range(1, len(steps) + 1) if all(before in steps for before in range(1, step + 1))]


def _states(store: "LanceStore", run_id: str, config: GrpoConfig) -> dict[int, Path]:
    """Whole states have the mark of the run that wrote them."""
    folder, mine = folder_of(store, run_id, config.checkpointing.checkpoint_dir), identity_of(store, run_id)
    own = [path for path in folder.glob("state_*") if has_mark(path, mine)]
    return {int(path.name.removeprefix("state_")): path for path in own}


def stored_config(store: "LanceStore", run_id: str) -> GrpoConfig:
    """The configuration of a GRPO run as it was last started, with `run` set to its id.

    The chat section is left at its defaults: a replay renders nothing. Raises StoreNotFound for an unknown run, ConfigError for one of
    another kind.
    """
    run = get_run(store, run_id)
    if run["kind"] != "grpo":
        raise ConfigError(
            f"Run {run_id!r} is of kind {run['kind']}; only runs of kind grpo can be replayed.",
            "Name a run of `rollhouse train grpo`; `rollhouse runs reproduce` trains one of sft or dpo again.",
        )
    values = _known(as_today(run["config"]), GrpoConfig) | {"run": run_id}
    return GrpoConfig.model_validate(values)


def changed_config(stored: GrpoConfig, overrides: Sequence[str] = (), recipe: str | Path | None = None) -> GrpoConfig:
    """The configuration of a run with the settings of a recipe, then overrides `section.key=value`.

    `algorithm: NAME` in the recipe, or `algorithm=NAME`, sets what the preset of that algorithm sets. Raises ConfigError as with_changes does.
    """
    named = [read_recipe(recipe).get("algorithm")] if recipe else []
    pairs = [override.lstrip("+").partition("=") for override in overrides]
    names = [name for name in (*named, *(text for key, _, text in pairs if key == "algorithm")) if name is not None]
    if names:
        stored = GrpoConfig.model_validate(switched(stored.model_dump(mode="json"), str(names[-1])))
    return with_changes(stored, recipe, overrides)


def changed_settings(original: Original, after: GrpoConfig) -> dict[str, tuple[Any, Any]]:
    """`section.key` → (before, after) of what differs; user code whose file has changed by its SHA-256.

    Raises ConfigError naming a setting that decides what was generated.
    """
    old, new = _leaves(original.config.model_dump(mode="json")), _leaves(after.model_dump(mode="json"))
    differing = {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}
    for key, digest in code_hashes(after).items():
        if key not in differing and original.code.get(key) not in (None, digest):
            differing[key] = (original.code[key], digest)
    for key, (was, now) in differing.items():
        if not _among(key, (*FREE, *BESIDE)):
            raise ConfigError(
                f"A replay cannot change {key}: its rollouts were made with {was!r}, not {now!r}.",
                f"It can change {', '.join(FREE)}; for others start a run with `rollhouse train grpo`.",
            )
    was, now = differing.get("loss_fn.teacher.model", (None, None))
    if now is not None:
        raise ConfigError(
            f"A replay has no teacher: loss_fn.teacher.model was {was!r} and cannot become {now!r}.",
            "Keep it, or set it to null to train without.",
        )
    return differing


def changes_plans(changed: Mapping[str, Any], before: GrpoConfig, after: GrpoConfig) -> bool:
    """Whether the plans of the steps have to be made again."""
    if any(_among(key, PLANNING) for key in changed):
        return True
    return has_more_terms(before) != has_more_terms(after) or kl_off_rewards(before) != kl_off_rewards(after)


def changes_learning(changed: Mapping[str, Any]) -> bool:
    """Whether other weights are to be expected."""
    return any(_among(key, (*LEARNING, *PLANNING)) for key in changed)


def refuse_other_weights(changed: Mapping[str, Any]) -> None:
    """Raises ConfigError for a change with which the learner's state between two steps cannot be loaded."""
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
        if field is None and model.model_config.get("extra") == "allow":
            found[key] = value
        if field is None or field.annotation is ChatOptions:
            continue
        candidates = (field.annotation, *get_args(field.annotation))
        section = next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)
        found[key] = _known(value, section) if section is not None and isinstance(value, dict) else value
    return found
