"""Shaped rewards: what is taken off, and that nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.train.grpo.advantages import shaped_reward, stopped_properly
from rollhouse.train.grpo.algorithms.dapo import overlong_penalty
from rollhouse.train.grpo.config_algorithm import RewardShapingConfig

ROW = {"reward": 1.0, "status": "completed", "n_sampled_tokens": 90, "n_parse_failures": 0}


def test_nothing_is_shaped_unless_asked_for():
    row = ROW | {"status": "truncated", "n_parse_failures": 3}
    assert shaped_reward(row, RewardShapingConfig(), 100) == 1.0


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (80, 0), (85, 0.125), (90, 0.25), (100, 0.5), (140, 0.5)])
def test_overlong_rises_linearly_in_the_buffer_and_no_further(n, expected):
    assert overlong_penalty(n, max_length=100, buffer=20, penalty=0.5) == pytest.approx(expected)


@given(st.integers(0, 300), st.integers(1, 300), st.integers(1, 300), st.floats(0, 5))
def test_overlong_equals_its_formula(n, length, buffer, penalty):
    """DAPO's equation 13, as a case distinction."""
    if n <= length - buffer:
        expected = 0.0
    elif n <= length:
        expected = ((length - buffer) - n) / buffer
    else:
        expected = -1.0
    assert overlong_penalty(n, length, buffer, penalty) == pytest.approx(-penalty * expected)


def test_a_truncated_rollout_keeps_a_part_of_its_reward():
    options = RewardShapingConfig(stop_properly_penalty_coef=0.25)
    assert shaped_reward(ROW | {"status": "truncated"}, options, 100) == 0.25
    assert shaped_reward(ROW, options, 100) == 1.0


@given(st.floats(-10, 10), st.floats(0, 1))
def test_being_cut_short_never_raises_a_reward(reward, keep):
    assert stopped_properly(reward, keep) <= reward


def test_all_shapes_add_up():
    options = RewardShapingConfig(overlong_buffer_length=20, overlong_buffer_penalty=0.4, invalid_tool_call_penalty=0.3)
    row = ROW | {"n_parse_failures": 2}
    assert shaped_reward(row, options, 100, kl=0.2) == pytest.approx(1 - 0.2 - 0.3 - 0.2)
    assert shaped_reward(row | {"n_sampled_tokens": None, "n_parse_failures": None}, options, 100) == 1.0
