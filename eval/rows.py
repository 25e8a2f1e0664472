"""Rows of `evaluations`: their ids, which a run has already, and the counts over them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..store.house import House, quote
from ..store.ids import hash_id


def evaluation_id(run_id: str, benchmark: str, category: str | None, case_id: str, mode: str, sample: int) -> str:
    """The key of one evaluated case: judging it again in the same run changes nothing."""
    return hash_id("evaluation", run_id, benchmark, category, case_id, mode, sample)


def rows_of_run(house: House, run_id: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The run's evaluated cases, in the order they were written."""
    return house.read("evaluations", columns=columns, filter=f"run_id = {quote(run_id)}").to_pylist()


@dataclass(frozen=True)
class CategoryScore:
    """How one category went.

    Attributes:
        accuracy: correct / total.
        errors: Error type → how many cases failed with it, most frequent first; failures without a type are not in it.
    """

    correct: int
    total: int
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of the cases that passed; 0.0 when there are none."""
        return self.correct / self.total if self.total else 0.0


def by_category(rows: Iterable[Mapping[str, Any]]) -> dict[str, CategoryScore]:
    """Counts per category, by name. A verdict that is missing counts as failed."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["category"] or "", []).append(row)
    return {
        name: CategoryScore(
            correct=sum(bool(row["passed"]) for row in group),
            total=len(group),
            errors=dict(Counter(row["error_type"] for row in group if row["error_type"]).most_common()),
        )
        for name, group in sorted(grouped.items())
    }
