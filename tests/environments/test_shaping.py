"""Shaped rewards: what is added up, what is kept, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rollhouse.base.errors import ConfigError
from rollhouse.environments.shaping import Penalties, RewardShaping, shape
from rollhouse.store.task import Score

COUNTS = {"n_parse_failures": 2, "n_tool_errors": 1, "n_turns": 4, "status": "truncated"}
RAW = Score(1.0, True, "office", "3", (("state", 1.0, 1.0), ("style", 0.5, 0.0)))


def shaped(**settings: Any) -> Score:
    return shape(RAW, COUNTS, RewardShaping(**settings))


def test_without_settings_the_verdict_is_itself() -> None:
    assert shape(RAW, COUNTS, RewardShaping()) is RAW


def test_scale_components_penalties_then_clip() -> None:
    prices = Penalties(parse_failure=0.1, tool_error=0.25, turn=0.01, truncated=0.5)
    assert shaped(scale=2).reward == 2.0
    assert shaped(components={"style": 2, "raw": 1}).reward == pytest.approx(2.0)
    assert shaped(scale=2, penalties=prices).reward == pytest.approx(2 - 0.2 - 0.25 - 0.04 - 0.5)
    assert shaped(scale=2, penalties=prices, clip=(-1, 0.5)).reward == 0.5
    assert shaped(penalties={"turn": 5}, clip=(-1, 1)).reward == -1


def test_the_raw_verdict_is_kept_and_the_scorer_says_so() -> None:
    score = shaped(scale=0, penalties={"turn": 0.1})
    assert score.passed and score.scorer == "office+shaped" and score.scorer_version.startswith("3+")
    assert ("raw", 1.0, 0.0) in score.components and ("penalty/turn", 4.0, -0.1) in score.components
    assert shaped(scale=2).scorer_version != shaped(scale=3).scorer_version
    assert shaped(scale=2).scorer_version == shaped(scale=2.0).scorer_version


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 5), st.booleans())
def test_named_components_add_up_to_the_reward(scale: float, a: float, b: float, price: float, cut: bool) -> None:
    counts = {**COUNTS, "status": "truncated" if cut else "completed"}
    shaping = RewardShaping(scale=scale, components={"state": a, "raw": b}, penalties=Penalties(truncated=price))
    score = shape(RAW, counts, shaping)
    if not shaping.changes_nothing:
        assert score.reward == pytest.approx(sum(value * weight for _, value, weight in score.components))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_verdict_that_is_no_number_is_refused(wrong: float) -> None:
    for score in (Score(wrong, True, "s", "1"), Score(1.0, True, "s", "1", (("part", wrong, 0.0),))):
        for shaping in (RewardShaping(), RewardShaping(clip=(0, 1))):
            with pytest.raises(ValueError, match="the verdict of s is not a number"):
                shape(score, COUNTS, shaping)


@pytest.mark.parametrize(
    ("parts", "output"),
    [
        (("high", True, "s", "1"), "reward is 'high'"),
        ((True, True, "s", "1"), "reward is True"),
        ((1.0, 1, "s", "1"), "passed=1, which is not True or False"),
        ((1.0, True, "s", 1), "scorer_version of a verdict is 1"),
        ((1.0, True, "s", "1", {"part": 1.0}), r"is not \(name, value, weight\)"),
        ((1.0, True, "s", "1", (("part", None, 0.0),)), "part is None"),
    ],
)  # fmt: skip
def test_a_verdict_of_wrong_types_is_refused(parts: Any, output: str) -> None:
    with pytest.raises(ValueError, match=output):
        shape(Score(*parts), COUNTS, RewardShaping())


def test_a_verdict_without_components_is_a_part_of_its_own_sum() -> None:
    score = shape(replace(RAW, components=()), COUNTS, RewardShaping(scale=2, penalties=Penalties(turn=0.1)))
    assert score.reward == pytest.approx(sum(value * weight for _, value, weight in score.components))


def test_a_component_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no component .stile..*raw, state, style"):
        shaped(components={"stile": 1})


@pytest.mark.parametrize(
    "settings",
    [{"scale": math.nan}, {"clip": (1, 0)}, {"penalties": {"turn": -1}}, {"penalties": {"typo": 1}}, {"gain": 2}],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RewardShaping(**settings)
