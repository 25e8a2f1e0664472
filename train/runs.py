"""What training needs to know about runs: their identity, unused names, and where the numbers of two runs differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..store.checkpoint_paths import identity_of
from ..store.lance_store import LanceStore, quote
from ..store.runs import Run, list_runs

COMPARED = ("train/loss", "train/grad_norm")
"""The metrics that are compared."""


def run_identity(run: Run) -> str:
    """12 hex digits that identify a run across stores. A resumed run and a moved store keep them; two runs of one name in two stores differ."""
    return identity_of(run.store, run.run_id)


def free_name(store: LanceStore, run_id: str, what: str) -> str:
    """`<run_id>-<what>-N` with the least N from 1 that no run has."""
    taken = {run["run_id"] for run in list_runs(store)}
    return next(name for number in range(1, len(taken) + 2) if (name := f"{run_id}-{what}-{number}") not in taken)


@dataclass(frozen=True)
class Difference:
    """The first number that differs between two runs.

    Attributes:
        step: Optimizer step, from 1.
        name: A metric, or `weights_hash` of the step's checkpoint.
        before, after: The values of the two runs; None for a run without this number.
    """

    step: int
    name: str
    before: float | str | None
    after: float | str | None


def stored_numbers(store: LanceStore, run_id: str) -> dict[tuple[int, str], float]:
    """(step, name) → value of the COMPARED metrics, from the last incarnation that took the step."""
    names = ", ".join(quote(name) for name in COMPARED)
    rows = store.read("metrics", filter=f"run_id = {quote(run_id)} and name in ({names})").to_pylist()
    return {(row["step"], row["name"]): row["value"] for row in sorted(rows, key=lambda row: row["incarnation"])}


def first_difference(
    before: Mapping[tuple[int, str], float], after: Mapping[tuple[int, str], float]
) -> Difference | None:
    """The first step and metric whose values are not equal bit for bit, NaN equal to NaN. None when there is none."""
    for step, name in sorted(before.keys() | after.keys()):
        one, other = before.get((step, name)), after.get((step, name))
        both_nan = one is not None and other is not None and math.isnan(one) and math.isnan(other)
        if one != other and not both_nan:
            return Difference(step, name, one, other)
    return None
