"""What is taken off a reward before groups are compared. Pure functions on rollout rows; the row keeps its verdict, the plan has what was compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ShapingOptions:
    """How rewards are shaped; everything is off by default.

    Attributes:
        overlong_buffer: Sampled tokens before `max_length` at which the penalty of length begins; None is off.
        overlong_penalty: What is taken off at `max_length` and beyond.
        max_length: In sampled tokens of the rollout, all its turns together.
        stop_properly: In [0, 1]: what a truncated rollout keeps of a reward above 0; None is off.
        invalid_tool_call: Taken off a rollout with a tool call that did not parse.
        kl_coef: Weight of the KL to the reference, summed over the rollout's sampled tokens; 0 is off.
    """

    overlong_buffer: int | None = None
    overlong_penalty: float = 1.0
    max_length: int | None = None
    stop_properly: float | None = None
    invalid_tool_call: float = 0.0
    kl_coef: float = 0.0


def shaped_reward(row: Mapping[str, Any], options: ShapingOptions, kl: float = 0.0) -> float:
    """The reward that is compared within the group, of a row that has a finite one. `kl` is k1 summed over its sampled tokens."""
    reward = row["reward"]
    if options.stop_properly is not None and row["status"] == "truncated":
        reward = stopped_properly(reward, options.stop_properly)
    if options.overlong_buffer is not None and options.max_length is not None:
        n_sampled = row["n_sampled_tokens"] or 0
        reward -= overlong(n_sampled, options.max_length, options.overlong_buffer, options.overlong_penalty)
    if row["n_parse_failures"]:
        reward -= options.invalid_tool_call
    return reward - options.kl_coef * kl


def overlong(n_sampled: int, max_length: int, buffer: int, penalty: float) -> float:
    """What is taken off for length: 0 up to max_length - buffer, then linearly up to `penalty` at max_length, no more beyond (DAPO, arXiv:2503.14476, eq. 13)."""
    return penalty * min(1.0, max(0.0, (n_sampled - (max_length - buffer)) / buffer))


def stopped_properly(reward: float, keep: float) -> float:
    """The reward of a rollout that was cut short. A reward below 0 stays: multiplied, it would rise for being cut."""
    return min(reward, keep * reward)
