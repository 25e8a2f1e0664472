"""What the store knows of a GRPO run that is to be replayed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....base.errors import ConfigError
from ....store.lance_store import quote
from ....store.runs import get_run
from ...checkpoints import MARK, folder_of, starting_model
from ...runs import identity_of, stored_numbers
from ..config import GrpoConfig
from .settings import stored_config

if TYPE_CHECKING:
    from ....store.lance_store import LanceStore


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


def read_original(store: "LanceStore", run_id: str) -> Original:
    """Raises StoreNotFound for a run there is not, ConfigError for one of another kind, or whose first model is no longer what it was."""
    config = stored_config(store, run_id)
    run = get_run(store, run_id)
    model = starting_model(store, run)
    rows = store.read("checkpoints", filter=f"run_id = {quote(run_id)}").to_pylist()
    last = {row["step"]: row for row in sorted(rows, key=lambda row: row["incarnation"])}
    folders = [Path(row["path"]) for _, row in sorted(last.items())]
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
        tokenizer=next((folder for folder in reversed(folders) if folder.is_dir()), model),
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
    whole = [path for path in folder.glob("state_*") if (path / MARK).is_file()]
    own = [path for path in whole if json.loads((path / MARK).read_text())["run"] == mine]
    return {int(path.name.removeprefix("state_")): path for path in own}
