"""pass@k is the chance that a random choice of k of the n samples holds a pass."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.queries.passk import pass_at_k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_equals_counting_all_choices(counts: tuple[int, int, int]) -> None:
    n, c, k = counts
    choices = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_edges() -> None:
    assert pass_at_k(4, 0, 1) == 0
    assert pass_at_k(4, 4, 4) == 1
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(3, 2, 4) is None
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)
    for wrong in ((3, 4, 1), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(ValueError):
            pass_at_k(*wrong)
