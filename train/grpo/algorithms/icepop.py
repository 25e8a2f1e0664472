"""IcePop: Ling Team 2025, arXiv:2510.18855. GRPO that leaves out tokens on which engine and learner disagree.

w_t    = exp(learner's logprob before the first update - engine's logprob when it sampled)
loss_t = w_t * GRPO's loss    where low <= w_t <= high, else 0
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def settings(max_length: int) -> dict[str, Any]:
    """The preset, with the bounds of the paper's code (0.5 to 5)."""
    return {
        "loss_fn": {
            "truncated_importance_sampling_type": "icepop",
            "truncated_importance_sampling_ratio_min": 0.5,
            "truncated_importance_sampling_ratio": 5.0,
        }
    }


def out_of_bounds(weight: "Tensor", mask: "Tensor", low: float, high: float) -> "Tensor":
    """Which tokens are left out, [B, T] bool. `weight` is [B, T], or [B, 1] to judge whole rollouts by one number."""
    return mask & ((weight < low) | (weight > high))
