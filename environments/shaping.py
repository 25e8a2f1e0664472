"""Rewards shaped by configuration, for training. The raw verdict is kept.

    shaped = clip(scale · base − Σ penalty · count)

`base` is the environment's own reward, or the weighted sum of named components of its verdict. Penalties are in units of the shaped reward,
and the clip comes last.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from ..base.config import Section
from ..base.errors import ConfigError
from ..store.ids import hash_id
from ..store.task import Score

RAW = "raw"
"""The component that holds the environment's own reward beside a shaped one."""
SHAPED = "+shaped"
"""Ends the scorer of a shaped reward."""
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# The column of the rollout's row that multiplies each penalty.
_COUNTS = {"parse_failure": "n_parse_failures", "tool_error": "n_tool_errors", "turn": "n_turns"}


class Penalties(Section):
    """Amounts subtracted from the shaped reward; all are 0 or positive."""

    model_config = ConfigDict(frozen=True)

    parse_failure: _Cost = 0.0
    """For each tool call that could not be read."""
    tool_error: _Cost = 0.0
    """For each call answered by an error."""
    turn: _Cost = 0.0
    """For each model call."""
    truncated: _Cost = 0.0
    """Once, for a rollout that a limit ended (tokens, context or turns)."""


class RewardShaping(Section):
    """How one environment's rewards are shaped. The defaults change nothing."""

    model_config = ConfigDict(frozen=True)

    scale: _Finite = 1.0
    clip: tuple[_Finite, _Finite] | None = None
    """Lowest and highest shaped reward; None is no bound."""
    components: dict[str, _Finite] = Field(default_factory=dict)
    """Weights by component name; `raw` is the environment's own reward. Empty: the own reward counts alone."""
    penalties: Penalties = Penalties()

    @model_validator(mode="after")
    def _ordered(self) -> "RewardShaping":
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError("the lowest value of clip is above the highest")
        return self

    @property
    def changes_nothing(self) -> bool:
        """Whether it changes no verdict."""
        return self == RewardShaping()


COUNTS = (*_COUNTS.values(), "status")
"""The columns of a rollout that shaping looks at."""


def shape(score: Score, row_counts: Mapping[str, Any], shaping: RewardShaping) -> Score:
    """The shaped verdict; the verdict itself when the shaping changes nothing.

    Its components are the verdict's own, reweighted, `raw`, and a `penalty/NAME` for each penalty set (value: how often, weight: its price below
    zero), so that Σ value · weight is the reward before the clip, if the verdict's components add up to its reward or it has none with a weight.
    `raw` has a weight where it is named, or is the only part. `passed` stays the raw verdict's.

    Args:
        row_counts: The rollout's row, or its `n_parse_failures`, `n_tool_errors`, `n_turns` and `status`.

    Raises ValueError for a verdict that is not finite, and ConfigError for a component that the verdict does not have.
    """
    check_score(score)
    if shaping.changes_nothing:
        return score
    values = {name: value for name, value, _ in score.components} | {RAW: score.reward}
    missing = sorted(shaping.components.keys() - values.keys())
    if missing:
        raise ConfigError(
            f"The verdict of {score.scorer} has no component {missing[0]!r}.",
            f"It has: {', '.join(sorted(values))}. Correct the names under reward.components.",
        )
    penalties = _penalties(row_counts, shaping.penalties)
    named = shaping.components
    base = math.fsum(weight * values[name] for name, weight in named.items()) if named else score.reward
    reward = shaping.scale * base + math.fsum(value * weight for _, value, weight in penalties)
    if shaping.clip is not None:
        reward = min(max(reward, shaping.clip[0]), shaping.clip[1])
    own = [(name, value, _weight(name, weight, shaping)) for name, value, weight in score.components if name != RAW]
    alone = not named and not any(weight for _, _, weight in own)
    raw = (RAW, score.reward, shaping.scale * (1.0 if alone else named.get(RAW, 0.0)))
    return check_score(
        replace(
            score,
            reward=reward,
            scorer=f"{score.scorer}{SHAPED}",
            scorer_version=f"{score.scorer_version}+{hash_id(shaping.model_dump(mode='json'))[:8]}",
            components=(*own, raw, *penalties),
        )
    )


def check_score(score: Score, n_turns: int | None = None) -> Score:
    """The score itself. Raises ValueError for an invalid one: a reward or a component that is not a finite number, a scorer without a name, …

    Args:
        n_turns: Model calls of the episode, each of which needs one of turn_rewards where there are any; None when not known.
    """
    if not isinstance(score, Score):
        raise ValueError(f"the verdict is a {type(score).__name__}, not a Score")
    for name, value in (("scorer", score.scorer), ("scorer_version", score.scorer_version)):
        if not isinstance(value, str) or not value:
            raise ValueError(f"the {name} of a verdict is {value!r}, not a text")
    if not isinstance(score.passed, bool):
        raise ValueError(f"the verdict of {score.scorer} has passed={score.passed!r}, which is not True or False")
    if not all(
        isinstance(part, tuple | list) and len(part) == 3 and isinstance(part[0], str) for part in score.components
    ):
        raise ValueError(f"a component of the verdict of {score.scorer} is not (name, value, weight)")
    parts = ((name, number) for name, *numbers in score.components for number in numbers)
    by_turn = [] if score.turn_rewards is None else list(score.turn_rewards)
    if score.turn_rewards is not None and n_turns is not None and len(by_turn) != n_turns:
        raise ValueError(f"the verdict of {score.scorer} has {len(by_turn)} turn_rewards for {n_turns} turns")
    for name, value in (("reward", score.reward), *parts, *(("turn_rewards", value) for value in by_turn)):
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"the verdict of {score.scorer} is not a number: {name} is {value!r}")
    return score


def _weight(name: str, weight: float, shaping: RewardShaping) -> float:
    return shaping.scale * (shaping.components.get(name, 0.0) if shaping.components else weight)


def _penalties(counts: Mapping[str, Any], penalties: Penalties) -> list[tuple[str, float, float]]:
    """(name, how often, price below zero) of each penalty that is set."""
    how_often = {name: float(counts.get(column) or 0) for name, column in _COUNTS.items()}
    how_often["truncated"] = float(counts.get("status") == "truncated")
    prices = {name: price for name, price in penalties.model_dump().items() if price}
    return [(f"penalty/{name}", how_often[name], -price) for name, price in prices.items()]
