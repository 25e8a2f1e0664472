"""Advantages: how much better a rollout did than the other rollouts of its group."""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-6
ZERO_STD = 1e-6
MIN_VARIANCE = 1e-8


@dataclass(frozen=True)
class GroupAdvantages:
    """What `group_advantages` found.

    Attributes:
        values_B: Parallel to the rewards, float64: the advantage; NaN where the reward was NaN.
        zero_std_B: Parallel to the rewards, bool: the rollout's group has no spread (or one scored rollout), so its
            advantage is exactly 0 and says nothing.
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

        A_i = (r_i - m) / (s + eps)      normalize (Shao et al. 2024, arXiv:2402.03300, eq. 3)
        A_i = r_i - m                    not normalize (Liu et al. 2025, arXiv:2503.20783, "Dr. GRPO")

    and with `leave_one_out` the baseline is the mean of the *other* rollouts, which makes the numerator
    (r_i - m) * n / (n - 1); the divisor stays the group's s.

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
    deviation = rewards - group_sum(rewards) / n.clamp(min=1)
    std = (group_sum(deviation**2) / (n - 1).clamp(min=1)).sqrt()
    flat = (std <= zero_std) | (n < 2)

    values = deviation * n / (n - 1).clamp(min=1) if leave_one_out else deviation
    if normalize:
        values = values / (std + eps)
    values = torch.where(flat, 0.0, values).masked_fill(~scored, torch.nan)
    return GroupAdvantages(values, flat, n.to(torch.int64))


def whiten(values_B: Tensor, tokens_B: Tensor) -> Tensor:
    """Advantages with mean 0 and variance 1 over the sampled tokens of a batch (Hu 2025, arXiv:2501.03262, REINFORCE++).

        mean = sum(n_i * A_i) / N,   variance = sum(n_i * (A_i - mean)^2) / N,   A_i <- (A_i - mean) / sqrt(max(variance, 1e-8))

    A rollout counts once for each of its tokens, so long ones count for more.

    Args:
        values_B: [B] float64; NaN stays NaN.
        tokens_B: [B] int64: n_i, the sampled tokens that are trained on; 0 where a value is to have no part in mean and variance.

    Returns:
        [B]; the values as they are when there is no token.
    """
    n, values = tokens_B.to(torch.float64), values_B.nan_to_num(0.0)
    total = n.sum()
    if total == 0:
        return values_B
    mean = (n * values).sum() / total
    variance = (n * (values - mean) ** 2).sum() / total
    return (values_B - mean) / variance.clamp(min=MIN_VARIANCE).sqrt()
