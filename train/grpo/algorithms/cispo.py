"""CISPO, clipped importance sampling weight policy optimization: MiniMax 2025, "MiniMax-M1", arXiv:2506.13585.

    A_i    = (r_i - m) / (s + 1e-6)
    loss_t = -stop(clip(ratio_t, 1 - low, 1 + high)) * A_i * logprob_t

The ratio is a weight without gradient, so no token loses its gradient to the clip. The paper has no lower bound: low is 1.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def settings(max_length: int) -> dict[str, Any]:
    """The preset. The bounds act from the second update on a batch (grpo.num_updates_per_batch)."""
    return {"loss_fn": {"objective": "cispo", "ratio_clip_min": 1.0}}


def cispo_loss(logprobs: "Tensor", ratio: "Tensor", advantages: "Tensor", low: float, high: float) -> "Tensor":
    """-stop(clip(ratio, 1 - low, 1 + high)) * A * logprob (eq. 4).

    Args:
        logprobs, ratio: [B, T]; only `logprobs` gets a gradient.
        advantages: [B, 1].

    Returns:
        [B, T].
    """
    return -ratio.detach().clamp(1 - low, 1 + high) * advantages * logprobs
