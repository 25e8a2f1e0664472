"""Repeats a training run from its stored configuration and compares: equal weights, or the first step that differs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base.errors import ConfigError
from ..base.recipes import code_named, refuse_stored_code
from ..store.lance_store import LanceStore
from ..store.naming import run_named
from ..store.runs import get_run
from .checkpoints import find_checkpoint, model_before
from .dpo import DpoConfig, train_dpo
from .offline import OnStep
from .runs import Difference, first_difference, free_name, stored_numbers
from .sft import SftConfig, train_sft

_KINDS: dict[str, tuple[Any, Callable[..., dict[str, Any]]]] = {
    "sft": (SftConfig, train_sft),
    "dpo": (DpoConfig, train_dpo),
}


@dataclass(frozen=True)
class Reproduction:
    """The result of repeating a run.

    Attributes:
        run_id, again: The run and its repetition.
        before, after: weights_hash of their last checkpoints.
        difference: The first loss or gradient norm that differs; None when all are equal bit for bit.
    """

    run_id: str
    again: str
    before: str
    after: str
    difference: Difference | None

    @property
    def identical(self) -> bool:
        """Whether the weights are equal bit for bit."""
        return self.before == self.after


def reproduce(
    store: LanceStore, run_id: str, on_step: OnStep | None = None, *, allow_code: bool = False
) -> Reproduction:
    """Trains with the run's dataset version, model, settings and seed again, as a run `RUN-again-N`.

    Args:
        allow_code: Import the Python code that the stored settings name (a tool parser).

    Raises:
        StoreNotFound: There is no such run.
        ConfigError: The run is not of kind sft or dpo, is not finished, names code without `allow_code`, or the weights it started from have changed.
    """
    run_id = run_named(store, run_id)
    run = get_run(store, run_id)
    if run["kind"] not in _KINDS:
        raise ConfigError(
            f"Run {run_id!r} is of kind {run['kind']} and cannot be reproduced.",
            "Name a run of kind sft or dpo; `rollhouse train replay` repeats a grpo run.",
        )
    if run["status"] != "finished":
        raise ConfigError(f"Run {run_id!r} is {run['status']}, not finished.", "Run its command again to finish it.")
    refuse_stored_code(run_id, code_named({"policy": run["config"].get("policy")}), allow_code)
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
