"""From rewards to advantages: how much better a rollout did than the other rollouts of its group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .algorithms import rloo
from .algorithms.dapo import overlong_penalty
from .algorithms.dr_grpo import centered
from .algorithms.grpo import EPS, normalized
from .algorithms.turns import turn_advantages
from .config_algorithm import RewardShapingConfig

ZERO_STD = 1e-6


@dataclass(frozen=True)
class GroupAdvantages:
    """What `group_advantages` found.

    Attributes:
        values_B: Parallel to the rewards, float64: the advantage; NaN where the reward was NaN.
        zero_std_B: Parallel to the rewards, bool: the rollout's group has no spread (or one scored rollout), so its
            advantage is exactly 0.
        sizes_B: Parallel to the rewards, int64: how many scored rollouts its group has.
    """

    values_B: Tensor
    zero_std_B: Tensor
    sizes_B: Tensor


def group_advantages(
    rewards_B: Tensor,
    groups_B: Tensor,
    *,
    normalize: bool = True,
    leave_one_out: bool = False,
    eps: float = EPS,
    zero_std: float = ZERO_STD,
) -> GroupAdvantages:
    """Advantages of B rollouts within their groups.

    With m and s the mean and sample standard deviation (n - 1) over a group's n scored rollouts:

        A_i = (r_i - m) / (s + eps)      normalize: algorithms/grpo.py
        A_i = r_i - m                    not normalize: algorithms/dr_grpo.py

    and with `leave_one_out` the baseline is the mean of the *other* rollouts (algorithms/rloo.py); the divisor stays the group's s.

    Args:
        rewards_B: [B] rewards; NaN means "no verdict": left out of mean and deviation, and its advantage is NaN.
        groups_B: [B] int64 group numbers from 0, in any order.
        zero_std: Groups whose s is at most this have advantage exactly 0: dividing rounding noise by itself would
            make advantages of order 1 out of nothing. s is computed in float64 in two passes for the same reason.
    """
    rewards = rewards_B.to(torch.float64)
    scored = ~rewards.isnan()
    rewards = rewards.nan_to_num(0.0)
    n_groups = int(groups_B.max()) + 1 if groups_B.numel() else 0

    def group_sum(values_B: Tensor) -> Tensor:
        return torch.zeros(n_groups, dtype=torch.float64).index_add(0, groups_B, values_B * scored)[groups_B]

    n = group_sum(torch.ones_like(rewards))
    deviation = centered(rewards, group_sum(rewards) / n.clamp(min=1))
    std = (group_sum(deviation**2) / (n - 1).clamp(min=1)).sqrt()
    flat = (std <= zero_std) | (n < 2)

    values = rloo.leave_one_out(deviation, n) if leave_one_out else deviation
    if normalize:
        values = normalized(values, std, eps)
    values = torch.where(flat, 0.0, values).masked_fill(~scored, torch.nan)
    return GroupAdvantages(values, flat, n.to(torch.int64))


def turn_group_advantages(
    turns: Sequence[Sequence[float] | None], groups_B: Tensor, *, normalize: bool = True
) -> tuple[GroupAdvantages, list[tuple[float, ...] | None]]:
    """Advantages by turn of B rollouts within their groups (algorithms/turns.py).

    Args:
        turns: Rewards of each rollout's turns; None means "no verdict".

    Returns:
        The means over each rollout's turns, and the turns' own, rounded to float32; None without a verdict. A group whose turn rewards
        are all equal has no spread and advantages of exactly 0.
    """
    size, nan = len(turns), float("nan")
    values_B, flat_B = torch.full((size,), nan, dtype=torch.float64), torch.ones(size, dtype=torch.bool)
    sizes_B = torch.zeros(size, dtype=torch.int64)
    found: list[tuple[float, ...] | None] = [None] * size
    for number in groups_B.unique().tolist():
        members = (groups_B == number).nonzero()[:, 0].tolist()
        scored = {place: own for place in members if (own := turns[place]) is not None}
        together = torch.tensor([reward for own in scored.values() for reward in own], dtype=torch.float64)
        flat = len(scored) < 2 or float(together.std()) <= ZERO_STD
        sizes_B[members], flat_B[members] = len(scored), flat
        lists = (
            [[0.0] * len(own) for own in scored.values()] if flat else turn_advantages([*scored.values()], normalize)
        )
        for place, values in zip(scored, lists, strict=True):
            found[place] = tuple(torch.tensor(values, dtype=torch.float32).tolist())
            values_B[place] = sum(values) / len(values)
    return GroupAdvantages(values_B, flat_B, sizes_B), found


def shaped_reward(row: Mapping[str, Any], shaping: RewardShapingConfig, max_length: int, kl: float = 0.0) -> float:
    """The reward that is compared within the group, of a rollout row that has a finite one. The row keeps its verdict.

    Args:
        max_length: Sampled tokens at which the length penalty is full where the settings name none.
        kl: Weighted KL to the reference (k1 summed over sampled tokens); 0 is none.
    """
    reward = row["reward"]
    if shaping.stop_properly_penalty_coef is not None and row["status"] == "truncated":
        reward = stopped_properly(reward, shaping.stop_properly_penalty_coef)
    if shaping.overlong_buffer_length is not None:
        length = shaping.max_response_length or max_length
        n_sampled = row["n_sampled_tokens"] or 0
        reward -= overlong_penalty(n_sampled, length, shaping.overlong_buffer_length, shaping.overlong_buffer_penalty)
    if row["n_parse_failures"]:
        reward -= shaping.invalid_tool_call_penalty
    return reward - kl


def stopped_properly(reward: float, keep: float) -> float:
    """The reward of a truncated rollout. A reward below 0 stays: multiplied by `keep`, it would rise for being truncated."""
    return min(reward, keep * reward)
