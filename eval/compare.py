"""Compares two evaluations on the same cases: the difference, and whether it is more than chance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from ..base.config import default_at, flat, is_free
from ..base.errors import ConfigError
from ..base.html import html_table
from ..store.lance_store import LanceStore
from ..store.run_settings import stored_settings
from ..store.runs import find_run
from .rows import rows_of_run

RESAMPLES = 10_000
FEWEST = 6
"""Cases that must differ before a difference is called real: were A and B equally good, five would all go one way in 2 of 32 comparisons (the sign test), more than 5 %."""
_CHUNK = 4_000_000  # resampled cases held in memory at once

Key = tuple[str, str, str, str]
"""benchmark, mode, category, case_id: what makes two cases the same."""


@dataclass(frozen=True)
class Side:
    """One run's answers to one case. `rate` is the share of its samples that passed; rollout_ids are parallel to the samples, None without a rollout."""

    rate: float
    rollout_ids: tuple[str | None, ...]

    @property
    def passed(self) -> bool:
        """Whether at least half of the samples passed."""
        return self.rate >= 0.5


@dataclass(frozen=True)
class Comparison:
    """Run B against run A on the cases that both judged.

    Attributes:
        benchmark, category: Of the cases; None for several.
        n: Cases; a and b: mean pass rate over them; difference: b - a.
        low, high: 95 % interval of the difference, by resampling the pairs (percentile bootstrap). Cases are resampled and not samples, since the samples of one case are not independent.
        only_a, only_b: Cases that passed in one run alone. A case with several samples passes when at least half of them do.
        p: Of McNemar's exact test on those two counts, two-sided; 1.0 when there are none.
        moved: Cases whose share of passed samples is not the same in both.
    """

    benchmark: str | None
    category: str | None
    n: int
    a: float
    b: float
    low: float
    high: float
    only_a: int
    only_b: int
    p: float
    moved: int

    @property
    def difference(self) -> float:
        """b - a."""
        return self.b - self.a

    @property
    def verdict(self) -> str:
        """`better` or `worse` when the interval leaves out zero and at least FEWEST cases differ, else `noise`.

        Resampling fewer cases underestimates chance: two cases that both improve give an interval of no width.
        """
        if self.moved < FEWEST:
            return "noise"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "noise"


@dataclass(frozen=True)
class Flip:
    """A case that passed in one run and not in the other; gained is whether B passed it."""

    benchmark: str
    category: str
    case_id: str
    gained: bool
    a: Side
    b: Side


@dataclass(frozen=True)
class RunComparison:
    """The comparison of B with A.

    Attributes:
        overall: Over all common cases, one entry per benchmark; by_category: by benchmark and name.
        flips: Losses first, then gains, by category and case.
        only_in_a, only_in_b: Cases that the other run did not judge; they count nowhere.
        differing: (setting, in A, in B) of the runs' configurations, without the policy's: other possible causes of a difference.
    """

    run_a: str
    run_b: str
    overall: tuple[Comparison, ...]
    by_category: tuple[Comparison, ...]
    flips: tuple[Flip, ...]
    only_in_a: int
    only_in_b: int
    differing: tuple[tuple[str, Any, Any], ...]

    def _repr_html_(self) -> str:
        rows = [
            {
                "category": part.category or f"all of {part.benchmark}",
                "cases": part.n,
                "a": part.a,
                "b": part.b,
                "difference": part.difference,
                "95 % interval": f"{part.low:.3f} to {part.high:.3f}",
                "lost": part.only_a,
                "gained": part.only_b,
                "p": part.p,
                "verdict": part.verdict,
            }
            for part in (*self.by_category, *self.overall)
        ]
        alone = [
            f"{count} cases are only in {run}"
            for run, count in ((self.run_a, self.only_in_a), (self.run_b, self.only_in_b))
            if count
        ]
        return html_table(rows, title=f"{self.run_b} (b) against {self.run_a} (a)", note="; ".join(alone) or None)


# Intended differences: the policy, and how it is reached.
_POLICY = {
    "policy.engine",
    "policy.model_name",
    "policy.mistake_rate",
    "policy.max_total_sequence_length",
    "model_hash",
}


def compare_runs(store: LanceStore, run_a: str, run_b: str, seed: int = 0) -> RunComparison:
    """Compares two runs of kind `eval`. Reads their rows of `evaluations`; 10,000 resamples of 4,000 cases take about a second.

    Args:
        seed: Of the bootstrap, so that the same rows give the same interval.

    Raises StoreNotFound for an unknown run, ConfigError without a common case.
    """
    a, b = (find_run(store, name) for name in (run_a, run_b))
    return compare_rows(a, rows_of_run(store, a["run_id"]), b, rows_of_run(store, b["run_id"]), seed)


def compare_rows(
    a_run: Mapping[str, Any],
    a_rows: Iterable[Mapping[str, Any]],
    b_run: Mapping[str, Any],
    b_rows: Iterable[Mapping[str, Any]],
    seed: int = 0,
) -> RunComparison:
    """As `compare_runs`, for runs (as `get_run` returns them) and their cases (rows of `evaluations`)."""
    run_a, run_b = a_run["run_id"], b_run["run_id"]
    a, b = sides(a_rows), sides(b_rows)
    common = sorted(a.keys() & b.keys())
    if not common:
        raise ConfigError(
            f"Runs {run_a!r} and {run_b!r} judged no case in common ({_said(run_a, a)}; {_said(run_b, b)}).",
            "Evaluate both on the same benchmark, split and mode, then compare again.",
        )
    pairs = [(key, a[key], b[key]) for key in common]
    benchmarks = sorted({key[0] for key in common})
    categories = sorted({(key[0], key[2]) for key in common})
    return RunComparison(
        run_a,
        run_b,
        tuple(compare_pairs([pair for pair in pairs if pair[0][0] == name], name, None, seed) for name in benchmarks),
        tuple(
            compare_pairs([pair for pair in pairs if (pair[0][0], pair[0][2]) == name], *name, seed)
            for name in categories
        ),
        _flips(pairs),
        len(a.keys() - b.keys()),
        len(b.keys() - a.keys()),
        _differing(a_run["config"], b_run["config"]),
    )


def sides(rows: Iterable[Mapping[str, Any]]) -> dict[Key, Side]:
    """Rows of `evaluations` of one run, case by case."""
    cases: dict[Key, list[Mapping[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row["benchmark"], row["mode"], row["category"] or "", row["case_id"]), []).append(row)
    return {key: _side(sorted(samples, key=lambda row: row["sample"])) for key, samples in cases.items()}


def _side(samples: Sequence[Mapping[str, Any]]) -> Side:
    passed = sum(bool(row["passed"]) for row in samples)
    return Side(passed / len(samples), tuple(row["rollout_id"] for row in samples))


def compare_pairs(
    pairs: Sequence[tuple[Key, Side, Side]], benchmark: str | None, category: str | None, seed: int = 0
) -> Comparison:
    """The numbers of one set of pairs (at least one)."""
    only_a = sum(a.passed and not b.passed for _, a, b in pairs)
    only_b = sum(b.passed and not a.passed for _, a, b in pairs)
    low, high = bootstrap_interval([b.rate - a.rate for _, a, b in pairs], seed)
    n = len(pairs)
    mean_a, mean_b = sum(a.rate for _, a, _ in pairs) / n, sum(b.rate for _, _, b in pairs) / n
    moved = sum(a.rate != b.rate for _, a, b in pairs)
    p = mcnemar(only_a, only_b)
    return Comparison(benchmark, category, n, mean_a, mean_b, low, high, only_a, only_b, p, moved)


def bootstrap_interval(differences: Sequence[float], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences, by resampling the pairs (Efron and Tibshirani 1993, chapter 13).

    One pair, or pairs that all differ alike, give an interval of no width.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    means = np.empty(RESAMPLES)
    step = max(1, _CHUNK // len(values))
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        means[start : start + count] = values[generator.integers(0, len(values), (count, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's exact test: if A and B are equally good, each flip is a fair coin (McNemar 1947)."""
    flips = only_a + only_b
    tail = sum(comb(flips, k) for k in range(min(only_a, only_b) + 1))
    # In integers: 2 ** -flips underflows from about a thousand flips on.
    return min(1.0, 2 * tail / 2**flips) if flips else 1.0


def _flips(pairs: Sequence[tuple[Key, Side, Side]]) -> tuple[Flip, ...]:
    flips = [Flip(key[0], key[2], key[3], b.passed, a, b) for key, a, b in pairs if a.passed != b.passed]
    return tuple(sorted(flips, key=lambda flip: (flip.gained, flip.benchmark, flip.category, flip.case_id)))


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    from .config import BfclConfig, EvaluationConfig  # late: half of the viewer's start

    model = BfclConfig if "categories" in a else EvaluationConfig
    before, after = flat(stored_settings(model, a)), flat(stored_settings(model, b))
    names = sorted(name for name in {*before, *after} - _POLICY if not is_free(model, name))
    both = [(name, *(values.get(name, default_at(model, name)) for values in (before, after))) for name in names]
    return tuple(one for one in both if one[1] != one[2])


def _said(run: str, cases: Mapping[Key, Side]) -> str:
    kinds = sorted({f"{benchmark} ({mode})" for benchmark, mode, _, _ in cases})
    return f"{run}: {', '.join(kinds) or 'no evaluated case'}"
