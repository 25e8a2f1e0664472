"""Shaped verdicts: which rule each environment has, and the rollout with the shaped verdict beside the raw one."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..base.errors import RollhouseError, one_line
from ..store.ids import hash_id
from ..store.rollout import Rollout, verdict_columns
from ..store.task import Score
from .mixture import Mixture, parts_of
from .shaping import COUNTS, RewardShaping, shape
from .types import Environment


@dataclass(frozen=True)
class ShapingRule:
    """How the rewards of one environment are shaped; `config_hash` names the settings of its own scorer, as re-scoring does."""

    shaping: RewardShaping
    config_hash: str


def shaping_rules(
    environment: Environment, shaping: Mapping[str, RewardShaping] | None = None
) -> dict[str, ShapingRule]:
    """The rule of each environment that has one which changes anything: those of a mixture's parts, and those given, by name."""
    parts = parts_of(environment)
    own = environment.shaping if isinstance(environment, Mixture) else {}
    return {
        name: ShapingRule(rule, hash_id(name, getattr(parts.get(name), "state_hash", None)))
        for name, rule in {**own, **(shaping or {})}.items()
        if not rule.changes_nothing
    }


def shaped_rollout(rollout: Rollout, score: Score, rule: ShapingRule) -> Rollout:
    """The rollout with the shaped verdict in its columns and the raw one in `scores`.

    A verdict that cannot be shaped makes the rollout an error of the verifier, without a verdict.
    """
    try:
        shaped = shape(score, {name: getattr(rollout, name) for name in COUNTS}, rule.shaping)
    except (RollhouseError, ValueError) as error:
        message = one_line(error.message if isinstance(error, RollhouseError) else str(error))
        failed = {"status": "error", "stop_reason": "error", "error_type": "verifier", "error_message": message}
        return rollout.changed(**verdict_columns(None), **failed)
    raw = score.about(rollout.rollout_id, rollout.run_id, rule.config_hash)
    return rollout.changed(**verdict_columns(shaped), scores=[*rollout.scores, raw])
