"""Rewards by turn, GRPO's process supervision: Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, section 4.1.3.

    z_ik = (r_ik - m) / (s + eps)        m, s: mean and sample standard deviation of all turn rewards of the group
    A_ik = sum over l >= k of z_il       the advantage of every token of turn k: how it and the turns after it did

Without normalize_rewards z_ik is r_ik - m. A group whose turn rewards are all equal has no spread.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .grpo import EPS

if TYPE_CHECKING:
    from torch import Tensor


def turn_advantages(rewards: Sequence[Sequence[float]], normalize: bool = True, eps: float = EPS) -> list[list[float]]:
    """Parallel to the turns of each rollout of one group.

    Args:
        rewards: Of each turn of each rollout, at least two turns together.
    """
    import torch

    values = [torch.tensor(list(turns), dtype=torch.float64) for turns in rewards]
    every = torch.cat(values)
    scale = every.std() + eps if normalize else 1.0
    return [to_go((turns - every.mean()) / scale).tolist() for turns in values]


def to_go(values_K: "Tensor") -> "Tensor":
    """[K] sums of each value and those after it."""
    return values_K.flip(0).cumsum(0).flip(0)
