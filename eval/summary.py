"""Statistics of evaluated cases: pass rate with its error, pass@k, counts by category."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from ..base.errors import ConfigError
from ..queries.passk import pass_at_k

BROKEN_CALL = "broken_call"
"""Error type of a case that passed for calling nothing, with a call in its answer that could not be read."""


@dataclass(frozen=True)
class CategoryScore:
    """The result of one category.

    Attributes:
        accuracy: correct / total.
        errors: Error type → number of failed cases, most frequent first; failures without a type are not counted.
        broken_calls: Cases that passed for calling nothing although the answer has a call that could not be read.
    """

    correct: int
    total: int
    errors: dict[str, int] = field(default_factory=dict)
    broken_calls: int = 0

    @property
    def accuracy(self) -> float:
        """Share of the cases that passed; 0.0 when there are none."""
        return self.correct / self.total if self.total else 0.0


@dataclass(frozen=True)
class EvalSummary:
    """The result of a policy on a set of tasks.

    Attributes:
        pass_rate: Mean over tasks of the share of the task's samples that passed.
        stderr: Standard error of pass_rate over tasks (samples of one task are not independent); 0.0 with fewer than two tasks.
        pass_at_k: k → unbiased estimate of the chance that one of k samples passes, for k = 1, 2, 4, … up to the samples a task has.
        n: Samples. One without a verdict (its environment or verifier failed, its time ran out) counts as not passed.
        n_tasks: Tasks.
        mean_reward: Mean over samples; one without a reward counts as 0.
        by_category: Category → counts over samples.
        by_environment: Environment → counts over samples; empty for one environment.
        errors: Error type → samples, most frequent first.
    """

    pass_rate: float
    stderr: float
    pass_at_k: dict[int, float]
    n: int
    n_tasks: int
    mean_reward: float
    by_category: dict[str, CategoryScore] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    by_environment: dict[str, CategoryScore] = field(default_factory=dict)


def summarize(rows: Sequence[Mapping[str, Any]]) -> EvalSummary:
    """The summary of rows of `evaluations` of one run (keys benchmark, case_id, category, passed, score, error_type)."""
    verdicts: dict[str, list[bool]] = {}
    for row in rows:
        verdicts.setdefault(row["case_id"], []).append(bool(row["passed"]))
    if not verdicts:
        raise ConfigError("No case was evaluated, so there is no summary.", "Name tasks, or another run.")
    rates = [fmean(passed) for passed in verdicts.values()]
    most = min(len(passed) for passed in verdicts.values())
    ks = [2**power for power in range(most.bit_length())]
    categories = by_category(rows)
    errors: dict[str, int] = {}
    for score in categories.values():
        for name, count in score.errors.items():
            errors[name] = errors.get(name, 0) + count
    return EvalSummary(
        pass_rate=fmean(rates),
        stderr=stdev(rates) / math.sqrt(len(rates)) if len(rates) > 1 else 0.0,
        pass_at_k={k: fmean(pass_at_k(len(p), sum(p), k) or 0.0 for p in verdicts.values()) for k in ks},
        n=len(rows),
        n_tasks=len(verdicts),
        mean_reward=fmean(row["score"] or 0.0 for row in rows),
        by_category=categories,
        errors=dict(sorted(errors.items(), key=lambda item: -item[1])),
        by_environment=_counts(rows, "benchmark") if len({row["benchmark"] for row in rows}) > 1 else {},
    )


def by_category(rows: Iterable[Mapping[str, Any]]) -> dict[str, CategoryScore]:
    """Counts per category, by name. A verdict that is missing counts as failed."""
    return _counts(rows, "category")


def _counts(rows: Iterable[Mapping[str, Any]], column: str) -> dict[str, CategoryScore]:
    """Counts per value of a column."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row[column] or "", []).append(row)
    return {
        name: CategoryScore(
            correct=sum(bool(row["passed"]) for row in group),
            total=len(group),
            errors=dict(
                Counter(row["error_type"] for row in group if row["error_type"] and not row["passed"]).most_common()
            ),
            broken_calls=sum(bool(row["passed"]) and row["error_type"] == BROKEN_CALL for row in group),
        )
        for name, group in sorted(grouped.items())
    }
