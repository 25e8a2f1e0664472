"""Verdicts as columns: of the rollout's row, and of the row of `scores` that keeps a raw verdict beside a shaped one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..base.errors import RollhouseError, one_line
from ..store.ids import hash_id
from ..store.task import Score
from .shaping import RewardShaping, shape
from .types import Environment


@dataclass(frozen=True)
class ShapingRule:
    """How the rewards of one environment are shaped; `config_hash` names the settings of its own scorer, as re-scoring does."""

    shaping: RewardShaping
    config_hash: str


def shaping_rules(environment: Environment, shaping: Mapping[str, RewardShaping] | None) -> dict[str, ShapingRule]:
    """The rule of each environment (of each part of a mixture) that has one which changes anything."""
    parts = getattr(environment, "environments", {environment.name: environment})
    return {
        name: ShapingRule(rule, hash_id(name, getattr(parts.get(name), "state_hash", None)))
        for name, rule in (shaping or {}).items()
        if not rule.changes_nothing
    }


def shaped_rows(row: dict[str, Any], score: Score, rule: ShapingRule) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The rollout's row with the shaped verdict, and the row of `scores` with the raw one.

    A verdict that cannot be shaped makes the row an error of the verifier, without a row of `scores`.
    """
    try:
        shaped = shape(score, row, rule.shaping)
    except (RollhouseError, ValueError) as error:
        said = error.message if isinstance(error, RollhouseError) else str(error)
        reason = {"status": "error", "stop_reason": "error", "error_type": "verifier", "error_message": one_line(said)}
        return {**row, **score_columns(None), **reason}, None
    raw = {
        "row_id": hash_id(row["rollout_id"], score.scorer, score.scorer_version, rule.config_hash),
        "rollout_id": row["rollout_id"],
        "scorer": score.scorer,
        "scorer_version": score.scorer_version,
        "config_hash": rule.config_hash,
        "reward": score.reward,
        "passed": score.passed,
        "components": component_rows(score),
        "run_id": row["run_id"],
        "created_at": datetime.now(UTC),
    }
    return {**row, **score_columns(shaped)}, raw


def score_columns(score: Score | None) -> dict[str, Any]:
    """The verdict's columns in `rollouts`; all null without one."""
    return {
        "reward": score and score.reward,
        "reward_components": score and component_rows(score),
        "passed": score and score.passed,
        "scorer": score and score.scorer,
        "scorer_version": score and score.scorer_version,
    }


def component_rows(score: Score) -> list[dict[str, Any]]:
    """Its parts as they are stored."""
    return [{"name": name, "value": value, "weight": weight} for name, value, weight in score.components]
