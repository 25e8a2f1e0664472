"""RLOO, REINFORCE with a leave-one-out baseline: Ahmadian et al. 2024, arXiv:2402.14740.

    A_i = r_i - mean of the other rewards of the group = (r_i - m) * n / (n - 1)

The baseline of a rollout does not contain its own reward, so the gradient is unbiased. The loss of a token is GRPO's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def settings(max_length: int) -> dict[str, Any]:
    """The preset."""
    return {"grpo": {"normalize_rewards": False, "use_leave_one_out_baseline": True}}


def leave_one_out(deviations_B: "Tensor", sizes_B: "Tensor") -> "Tensor":
    """(r - m) * n / (n - 1).

    Args:
        deviations_B: [B] float64: reward minus the mean of the whole group.
        sizes_B: [B] float64: n, the scored rollouts of the group.
    """
    return deviations_B * sizes_B / (sizes_B - 1).clamp(min=1)
