"""GSPO, group sequence policy optimization: Zheng et al. 2025, arXiv:2507.18071.

A_i    = (r_i - m) / (s + 1e-6)
ratio  = exp(mean over the rollout's tokens of (logprob now - old))         one ratio per rollout
loss_t = -min(ratio * A_i, clip(ratio, 1 - 3e-4, 1 + 4e-4) * A_i)
loss   = mean over rollouts of the mean over their tokens
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def settings(max_length: int) -> dict[str, Any]:
    """The preset. The bounds are the paper's (section 5.1)."""
    return {
        "loss_fn": {
            "sequence_level_importance_ratios": True,
            "token_level_loss": False,
            "ratio_clip_min": 3e-4,
            "ratio_clip_max": 4e-4,
        }
    }


def sequence_log_ratio(log_ratio: "Tensor", mask: "Tensor") -> "Tensor":
    """The mean of a rollout's log ratios at each of its tokens.

    The value is the same at every token, the gradient is each token's own ("GSPO-token"). Where all tokens of a rollout have one weight,
    their sum is the gradient of one ratio per rollout; token-level correction weights make the difference.

    Args:
        log_ratio: [B, T] with gradient, 0 where the mask is False.
        mask: [B, T] bool.

    Returns:
        [B, T].
    """
    mean = log_ratio.detach().sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return log_ratio - log_ratio.detach() + mean


def sequence_mean(values: "Tensor", mask: "Tensor", n_sequences: int, shares: "Tensor | None" = None) -> "Tensor":
    """Mean over each episode's sampled tokens, summed, / n_sequences: every episode weighs the same (arXiv:2402.03300, eq. 3).

    Episodes without a sampled token add nothing, and `n_sequences`, of the whole optimizer step, does not count them.

    Args:
        values: [B, T]; mask: [B, T] bool, True at sampled tokens.
        shares: [B], each row's share of its episode's sampled tokens, so that the rows' weighted means add up to the episode's mean; None
            where every row is an episode.
    """
    per_row = values.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return (per_row if shares is None else per_row * shares).sum() / max(n_sequences, 1)
