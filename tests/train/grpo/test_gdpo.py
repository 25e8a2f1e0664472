"""GDPO: components of the reward normalised apart, against NumPy, and where there is nothing to take apart."""

import numpy as np
import pytest
from pydantic import ValidationError

from .settings import grpo_config
from .test_plan import plan_of, rollout

GDPO = grpo_config(grpo__normalize_components=True)


def scored(group, index, right, short, **changes):
    """A reward of two weighted components, and a measurement."""
    parts = [("right", right, 1.0), ("short", short, 0.5), ("seconds", index * 7.0, 0.0)]
    components = [dict(zip(("name", "value", "weight"), part, strict=True)) for part in parts]
    return rollout(group, index, right + 0.5 * short, reward_components=components, **changes)


def advantages(rows, config=GDPO):
    found = {entry.rollout_id: entry for entry in plan_of(rows, config).entries}
    return [found[row["rollout_id"]] for row in rows]


def z(values):
    return (values - values.mean(-1, keepdims=True)) / (values.std(-1, ddof=1, keepdims=True) + 1e-6)


def test_each_component_counts_by_its_own_spread() -> None:
    right = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]])
    short = np.array([[0.2, 0.9, 0.1, 0.4], [0.5, 0.6, 0.5, 0.7]])
    rows = [scored("ab"[g], i, right[g, i], short[g, i]) for g in (0, 1) for i in range(4)]
    total = (z(right) + z(0.5 * short)).ravel()
    expected = (total - total.mean()) / (total.std(ddof=1) + 1e-6)
    found = advantages(rows)
    assert [entry.advantage for entry in found] == pytest.approx(expected.tolist(), abs=2e-4)
    plain = [entry.advantage or 0.0 for entry in advantages(rows, grpo_config())]
    assert max(abs(a - b) for a, b in zip(plain, expected, strict=True)) > 0.1


def test_equal_sums_of_other_components_are_told_apart() -> None:
    rows = [scored("a", 0, 1.0, 0.0), scored("a", 1, 0.5, 1.0), scored("a", 2, 0.0, 0.0)]
    found = [entry.advantage or 0.0 for entry in advantages(rows)]
    assert rows[0]["reward"] == rows[1]["reward"] and abs(found[0] - found[1]) > 0.1


def test_groups_without_spread_and_rollouts_without_a_verdict_stay_out() -> None:
    rows = [scored("a", i, float(i % 2), 0.3) for i in range(3)] + [scored("b", i, 1.0, 0.3) for i in range(3)]
    rows.append({**scored("a", 3, 1.0, 0.3), "reward": None, "reward_components": None, "passed": None})
    found = advantages(rows)
    assert [entry.kept for entry in found] == [True] * 3 + [False] * 4
    assert [entry.advantage for entry in found[3:6]] == [0.0] * 3 and found[6].advantage is None


def test_a_reward_without_components_is_the_only_one() -> None:
    rows = [rollout("a", i, float(i)) for i in range(4)]
    values = z(np.arange(4.0))
    expected = (values - values.mean()) / (values.std(ddof=1) + 1e-6)
    assert [entry.advantage for entry in advantages(rows)] == pytest.approx(expected.tolist(), abs=1e-4)


def test_it_stands_alone() -> None:
    with pytest.raises(ValidationError, match="normalize_components has its own baseline"):
        grpo_config(grpo__normalize_components=True, grpo__use_leave_one_out_baseline=True)


def test_an_environment_without_components_beside_one_with_some_counts_by_its_reward() -> None:
    rows = [scored("a", i, float(i % 2), 0.3) for i in range(3)] + [rollout("b", i, float(i)) for i in range(3)]
    found = [entry.advantage or 0.0 for entry in advantages(rows)]
    assert found[3] < found[4] < found[5] and found[0] == found[2] < found[1]
