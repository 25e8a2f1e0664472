"""Dr. GRPO, GRPO done right: Liu et al. 2025, arXiv:2503.20783.

    A_i  = r_i - m                                           no division by the group's standard deviation
    loss = sum over tokens / (number of rollouts * L)        a constant L in place of each rollout's length

Dividing by the standard deviation favours prompts that are almost always, or almost never, solved; dividing by a rollout's own length favours
long wrong answers. The loss of a token is GRPO's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def settings(max_length: int) -> dict[str, Any]:
    """The preset. L is policy.max_total_sequence_length."""
    return {"grpo": {"normalize_rewards": False}, "loss_fn": {"fixed_length": max_length}}


def centered(rewards_B: "Tensor", means_B: "Tensor") -> "Tensor":
    """A = r - m; both [B] float64, `means_B` the mean reward of the rollout's group."""
    return rewards_B - means_B


def fixed_length_mean(values: "Tensor", mask: "Tensor", n_sequences: int, length: int) -> "Tensor":
    """Sum over sampled tokens / (n_sequences * length).

    Args:
        values: [B, T]; mask: [B, T] bool, True at sampled tokens.
        n_sequences: Rollouts with a sampled token, of the whole optimizer step.
        length: L, in tokens.
    """
    return values.where(mask, 0.0).sum() / max(n_sequences * length, 1)
