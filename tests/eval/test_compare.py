"""Paired comparison: the numbers against references, and the verdicts."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError, StoreNotFound
from rollhouse.base.recipes import resolve
from rollhouse.environments.registry import tasks_of
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.eval.compare import RunComparison, Side, bootstrap_interval, compare_pairs, compare_runs, mcnemar
from rollhouse.eval.config import EvaluationConfig
from rollhouse.eval.environment import evaluate_policy
from rollhouse.eval.job import run_evaluation
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    tail = sum(comb(n, k) * 0.5**n for k in range(min(only_a, only_b) + 1))
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_mcnemar_of_many_flips_does_not_underflow() -> None:
    assert mcnemar(2000, 2000) == 1.0
    assert 0.0 < mcnemar(1000, 1300) < 1e-9


def test_the_interval_is_that_of_the_normal_approximation_when_there_are_many_pairs() -> None:
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 3000, p=[0.1, 0.7, 0.2])
    low, high = bootstrap_interval(list(differences))
    error = differences.std() / np.sqrt(len(differences))
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.002)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.002)
    assert (low, high) == bootstrap_interval(list(differences))


def test_the_interval_covers_no_difference_at_its_nominal_rate() -> None:
    generator = np.random.default_rng(2)
    samples = [generator.choice([-1.0, 0.0, 1.0], 80, p=[0.15, 0.7, 0.15]) for _ in range(60)]
    inside = sum(low <= 0 <= high for low, high in (bootstrap_interval(list(sample)) for sample in samples))
    assert inside >= 52  # 57 expected; 51 or fewer happen by chance less than once in a hundred


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_swapping_the_runs_mirrors_the_numbers(passes: list[tuple[int, int]]) -> None:
    def compared(turned: bool):
        sides = [(Side(a / 4, (None,) * 4), Side(b / 4, (None,) * 4)) for a, b in passes]
        turn = [(b, a) if turned else (a, b) for a, b in sides]
        pairs = [(("x", "sampled", "c", str(i)), *pair) for i, pair in enumerate(turn)]
        return compare_pairs(pairs, "x", None)

    there, back = compared(False), compared(True)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.only_a, there.only_b, there.p) == (back.only_b, back.only_a, back.p)
    assert there.low - 1e-9 <= there.difference <= there.high + 1e-9


def test_a_handful_of_cases_that_all_improve_is_still_noise() -> None:
    def improved(count: int):
        sides = [(Side(float(i >= count), (None,)), Side(1.0, (None,))) for i in range(40)]
        return compare_pairs([(("x", "greedy", "c", str(i)), *pair) for i, pair in enumerate(sides)], "x", None)

    few, enough = improved(5), improved(6)
    assert few.low > 0 and (few.moved, few.verdict) == (5, "noise") and few.p > 0.05
    assert (enough.moved, enough.verdict) == (6, "better") and enough.p < 0.05


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """Evaluations of scripted policies that err never, sometimes (two of them) and nearly always, on the same 30 tasks."""
    made = LanceStore.create(tmp_path_factory.mktemp("compare") / "store")

    def evaluate(name: str, mistake_rate: float, limit: int = 30, samples: int = 1) -> None:
        mode = "greedy" if samples == 1 else "sampled"
        options = {"env": "workplace-mini", "limit": limit, "mode": mode, "num_repeats": samples, "mistake_rate": mistake_rate, "run": name}  # fmt: skip
        run_evaluation(made, resolve(EvaluationConfig, options=options))

    evaluate("perfect", 0.0)
    evaluate("half", 0.5)
    with start_run(made, "eval", "other-half") as run:
        environment = MiniEnvironment(seed=0)
        tasks = tasks_of(environment, "validation", 30)
        evaluate_policy(made, run, environment, ScriptedPolicy(0.5, seed=3), tasks)
    evaluate("poor", 0.9)
    evaluate("short", 0.0, limit=10)
    evaluate("sampled", 0.0, samples=2)
    return made


def whole(comparison: RunComparison):
    (overall,) = comparison.overall
    return overall


def test_a_real_difference_comes_with_the_cases_that_flipped(store: LanceStore) -> None:
    found = compare_runs(store, "poor", "perfect")
    overall = whole(found)
    assert (overall.n, overall.b, overall.verdict, overall.only_a) == (30, 1.0, "better", 0)
    assert overall.a < 0.4 and overall.p < 0.001 and overall.low > 0.3
    assert len(found.flips) == overall.only_b and all(flip.gained for flip in found.flips)
    assert sum(part.n for part in found.by_category) == 30
    rollouts = store.read("rollouts", columns=["rollout_id", "run_id", "passed"]).to_pylist()
    verdicts = {row["rollout_id"]: (row["run_id"], row["passed"]) for row in rollouts}
    for flip in found.flips:
        assert verdicts[flip.a.rollout_ids[0] or ""] == ("poor", False)
        assert verdicts[flip.b.rollout_ids[0] or ""] == ("perfect", True)


def test_luck_is_called_noise(store: LanceStore) -> None:
    overall = whole(compare_runs(store, "half", "other-half"))
    assert overall.verdict == "noise" and overall.low <= 0 <= overall.high
    assert overall.only_a + overall.only_b > 0, "some cases flip by luck alone"


def test_a_run_against_itself(store: LanceStore) -> None:
    found = compare_runs(store, "half", "half")
    assert (whole(found).difference, whole(found).p, found.flips, found.differing) == (0.0, 1.0, (), ())


def test_only_common_cases_count_and_the_rest_is_reported(store: LanceStore) -> None:
    found = compare_runs(store, "perfect", "short")
    assert (whole(found).n, found.only_in_a, found.only_in_b) == (10, 20, 0)
    assert found.differing == (("environment.limit", 30, 10),)


def test_what_cannot_be_compared_is_refused(store: LanceStore) -> None:
    with pytest.raises(ConfigError, match=r"no case in common.*greedy.*sampled"):
        compare_runs(store, "perfect", "sampled")
    with pytest.raises(StoreNotFound, match="perfct"):
        compare_runs(store, "perfect", "perfct")
