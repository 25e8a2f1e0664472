"""The numbers of an evaluation, by hand and over random verdicts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError
from rollhouse.eval.summary import summarize


def _rows(verdicts: dict[str, list[bool]], **fields: object) -> list[dict]:
    row = {"benchmark": "b", "category": "c", "error_type": None, **fields}
    return [
        {**row, "case_id": case, "passed": p, "score": float(p)} for case, passed in verdicts.items() for p in passed
    ]


def test_four_samples_of_two_tasks() -> None:
    summary = summarize(_rows({"a": [True, True, True, False], "b": [False, False, True, False]}))
    assert (summary.n, summary.n_tasks, summary.pass_rate, summary.mean_reward) == (8, 2, 0.5, 0.5)
    assert summary.stderr == pytest.approx(0.25)  # rates 3/4 and 1/4: deviation 0.3536 over the root of 2
    # pass@2: a misses with C(1,2)/C(4,2) = 0, b with C(3,2)/C(4,2) = 1/2
    assert summary.pass_at_k == pytest.approx({1: 0.5, 2: 0.75, 4: 1.0})
    assert summary.by_category["c"].correct == 4 and summary.by_category["c"].accuracy == 0.5


def test_tasks_weigh_the_same_whatever_their_samples() -> None:
    assert summarize(_rows({"a": [True], "b": [False, False, False]})).pass_rate == 0.5


def test_errors_and_categories_are_counted() -> None:
    rows = _rows({"a": [False, False]}, category="x", error_type="engine") + _rows({"b": [True]}, category=None)
    summary = summarize(rows)
    assert summary.errors == {"engine": 2}
    assert {name: (score.correct, score.total) for name, score in summary.by_category.items()} == {
        "": (1, 1),
        "x": (0, 2),
    }


def test_nothing_to_summarise_is_an_error() -> None:
    with pytest.raises(ConfigError):
        summarize([])


@given(st.dictionaries(st.text(min_size=1), st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=9))
def test_numbers_are_consistent(verdicts: dict[str, list[bool]]) -> None:
    summary = summarize(_rows(verdicts))
    values = [value for _, value in sorted(summary.pass_at_k.items())]
    assert values == sorted(values) and all(0 <= value <= 1 + 1e-9 for value in values)
    assert summary.pass_at_k[1] == pytest.approx(summary.pass_rate)
    assert max(summary.pass_at_k) <= min(map(len, verdicts.values())) < 2 * max(summary.pass_at_k)
    assert 0 <= summary.stderr <= 0.5 * math.sqrt(2)
    assert summary.by_category["c"].correct == sum(map(sum, verdicts.values()))
