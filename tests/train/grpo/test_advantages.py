"""Advantages against a plain double loop, and every edge case of a group, numbered as in docs/grpo-algorithms.md."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.train.grpo.advantages import group_advantages
from rollhouse.train.grpo.algorithms.reinforce_pp import whiten

REWARDS = st.one_of(st.just(math.nan), st.floats(-10, 10, width=32))
BATCHES = st.lists(st.tuples(REWARDS, st.integers(0, 3)), min_size=1, max_size=24)


def advantages(rewards, groups, **options):
    found = group_advantages(
        torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups, dtype=torch.int64), **options
    )
    return found.values_B.tolist(), found.zero_std_B.tolist()


@settings(deadline=None, derandomize=True)
@given(BATCHES, st.booleans(), st.booleans())
def test_equals_a_double_loop(batch, normalize, leave_one_out):
    rewards, groups = (list(column) for column in zip(*batch, strict=True))
    values, _ = advantages(rewards, groups, normalize=normalize, leave_one_out=leave_one_out)
    for i, (reward, group) in enumerate(batch):
        members = [r for r, g in batch if g == group and not math.isnan(r)]
        if math.isnan(reward):
            assert math.isnan(values[i])
            continue
        if len(members) < 2 or statistics.stdev(members) <= 1e-6:
            assert values[i] == 0
            continue
        others = [r for j, (r, g) in enumerate(batch) if g == group and j != i and not math.isnan(r)]
        expected = reward - statistics.fmean(others if leave_one_out else members)
        expected /= statistics.stdev(members) + 1e-6 if normalize else 1
        assert values[i] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_known_numbers():
    values, zero = advantages([1.0, 0.0, 0.0, 0.0], [0, 0, 0, 0])
    assert values == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert not any(zero)
    assert advantages([1.0, 0.0, 0.0, 0.0], [0] * 4, normalize=False)[0] == [0.75, -0.25, -0.25, -0.25]
    leave_one_out = advantages([1.0, 0.0, 0.0, 0.0], [0] * 4, normalize=False, leave_one_out=True)[0]
    assert leave_one_out == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


def test_edge_1_equal_rewards_give_exactly_zero():
    values, zero = advantages([0.7] * 5 + [1.0, 0.0], [0] * 5 + [1, 1])
    assert values[:5] == [0.0] * 5
    assert zero == [True] * 5 + [False] * 2


def test_edge_2_rounding_noise_is_no_spread():
    assert 0.1 + 0.2 != 0.3
    assert advantages([0.1 + 0.2, 0.3, 0.3], [0, 0, 0])[0] == [0.0, 0.0, 0.0]
    # A one-pass variance E[x^2] - E[x]^2 loses everything here.
    values, zero = advantages([1e6, 1e6 + 0.5], [0, 0])
    assert not any(zero)
    assert values == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-4)


def test_edge_4_unscored_rollouts_leave_the_group():
    values, _ = advantages([1.0, 0.0, math.nan, math.nan], [0, 0, 0, 0])
    assert values[:2] == advantages([1.0, 0.0], [0, 0])[0]
    assert math.isnan(values[2]) and math.isnan(values[3])
    assert advantages([1.0, math.nan], [0, 0])[1] == [True, True]


def test_edge_4_a_group_of_one_has_advantage_zero():
    assert advantages([1.0, 1.0, 0.0], [0, 1, 1])[0][0] == 0.0


@settings(deadline=None, derandomize=True)
@given(BATCHES, st.randoms(use_true_random=False))
def test_order_does_not_matter(batch, rng):
    shuffled = list(range(len(batch)))
    rng.shuffle(shuffled)
    rewards, groups = (list(column) for column in zip(*batch, strict=True))
    before, _ = advantages(rewards, groups)
    after, _ = advantages([rewards[i] for i in shuffled], [groups[i] for i in shuffled])
    assert after == pytest.approx([before[i] for i in shuffled], nan_ok=True, abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=16), st.floats(-5, 5))
def test_a_shift_of_all_rewards_changes_nothing(rewards, shift):
    groups = [0] * len(rewards)
    shifted = advantages([reward + shift for reward in rewards], groups)[0]
    assert shifted == pytest.approx(advantages(rewards, groups)[0], abs=1e-6)
    assert sum(shifted) == pytest.approx(0, abs=1e-6)


def test_no_rollouts():
    assert advantages([], [])[0] == []


@settings(deadline=None, derandomize=True)
@given(BATCHES, st.lists(st.one_of(st.just(math.nan), st.floats(-10, 10)), max_size=8), st.booleans(), st.booleans())
def test_unscored_rollouts_never_enter_the_statistics(batch, more, normalize, leave_one_out):
    """However many failures are added to a group, the advantages of the others stay to the bit."""
    options = {"normalize": normalize, "leave_one_out": leave_one_out}
    rewards, groups = (list(column) for column in zip(*batch, strict=True))
    failed = [math.nan] * len(more)
    before, flat = advantages(rewards, groups, **options)
    after, flat_after = advantages([*failed, *rewards], [i % 4 for i in range(len(more))] + groups, **options)
    assert after[len(more) :] == pytest.approx(before, nan_ok=True, abs=0, rel=0)
    assert flat_after[len(more) :] == flat
    assert all(map(math.isnan, after[: len(more)]))


VALUES = st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 30)), min_size=1, max_size=16)


@settings(deadline=None, derandomize=True)
@given(VALUES)
def test_whitening_equals_a_loop_over_tokens(batch):
    values, counts = (list(column) for column in zip(*batch, strict=True))
    tokens = [value for value, n in batch for _ in range(n)]
    found = whiten(torch.tensor(values, dtype=torch.float64), torch.tensor(counts)).tolist()
    if not tokens:
        assert found == values
        return
    mean, deviation = statistics.fmean(tokens), max(statistics.pstdev(tokens), 1e-4)
    assert found == pytest.approx([(value - mean) / deviation for value in values], rel=1e-6, abs=1e-6)
    if statistics.pstdev(tokens) > 1e-3:
        white = [value for value, n in zip(found, counts, strict=True) for _ in range(n)]
        assert statistics.fmean(white) == pytest.approx(0, abs=1e-6)
        assert statistics.pstdev(white) == pytest.approx(1, abs=1e-6)


def test_whitening_equal_advantages_gives_none():
    assert whiten(torch.full((4,), 0.7, dtype=torch.float64), torch.tensor([3, 1, 4, 1])).abs().max() < 1e-6


def test_whitening_leaves_out_what_has_no_tokens():
    values = torch.tensor([1.0, -1.0, 100.0, math.nan], dtype=torch.float64)
    found = whiten(values, torch.tensor([5, 5, 0, 0]))
    assert found[:2].tolist() == [1.0, -1.0] and found[2] == 100.0 and found[3].isnan()
