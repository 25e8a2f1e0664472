"""Trains a run again from what it says of itself, and compares: the same weights, or the first step that differs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base.errors import ConfigError
from ..store.lance_store import LanceStore
from ..store.runs import get_run
from .checkpoints import find_checkpoint, model_before
from .compare import Difference, first_difference, free_name, stored_numbers
from .dpo import DpoConfig, train_dpo
from .offline import OnStep
from .sft import SftConfig, train_sft

_KINDS: dict[str, tuple[Any, Callable[..., dict[str, Any]]]] = {
    "sft": (SftConfig, train_sft),
    "dpo": (DpoConfig, train_dpo),
}


@dataclass(frozen=True)
class Reproduction:
    """What training again gave.

    Attributes:
        run_id, again: The run and its repetition.
        before, after: weights_hash of their last checkpoints.
        difference: None when every step's loss and gradient norm are the same bits.
    """

    run_id: str
    again: str
    before: str
    after: str
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Whether the weights are the same, bit for bit."""
        return self.before == self.after


def reproduce(store: LanceStore, run_id: str, on_step: OnStep | None = None) -> Reproduction:
    """Trains the run's dataset version, model, settings and seed again, as a run `RUN-again-N`.

    Raises ConfigError for a run that is not of sft or dpo, is not finished, or whose first model is no longer what it was.
    """
    run = get_run(store, run_id)
    if run["kind"] not in _KINDS:
        raise ConfigError(
            f"Run {run_id!r} is of kind {run['kind']}, which is not trained from a dataset alone.",
            "Runs of kind sft and dpo can be reproduced.",
        )
    if run["status"] != "finished":
        raise ConfigError(f"Run {run_id!r} is {run['status']}.", "Finish it first: give its command again.")
    base = model_before(store, run_id)
    kind, train = _KINDS[run["kind"]]
    settings = {name: value for name, value in run["config"].items() if name not in ("model_hash", "files")}
    again = free_name(store, run_id, "again")
    config = kind.model_validate(settings | {"run": again})
    config.policy.model_name = str(base)
    before, after = find_checkpoint(store, run_id), train(store, config, on_step)
    assert before is not None, "model_before found it"
    difference = first_difference(stored_numbers(store, run_id), stored_numbers(store, again))
    return Reproduction(run_id, again, before["weights_hash"], after["weights_hash"], difference)  # fmt: skip
