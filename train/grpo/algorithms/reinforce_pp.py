"""REINFORCE++ with a baseline: Hu 2025, arXiv:2501.03262.

    A_i <- r_i - m                                           m: mean of the group's rewards
    A_i <- (A_i - mean) / sd                                 mean, sd: over all sampled tokens of the batch

The loss of a token is GRPO's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MIN_VARIANCE = 1e-8


def settings(max_length: int) -> dict[str, Any]:
    """The preset."""
    return {"grpo": {"normalize_rewards": False, "whiten_advantages": True}}


def whiten(values_B: "Tensor", tokens_B: "Tensor") -> "Tensor":
    """Advantages with mean 0 and variance 1 over the sampled tokens of a batch.

        mean = sum(n_i * A_i) / N,   variance = sum(n_i * (A_i - mean)^2) / N,   A_i <- (A_i - mean) / sqrt(max(variance, 1e-8))

    A rollout counts once for each of its tokens, so long rollouts count for more.

    Args:
        values_B: [B] float64; NaN stays NaN.
        tokens_B: [B] int64: n_i, the sampled tokens that are trained on; 0 where a value has no part in mean and variance.

    Returns:
        [B]; the values unchanged when there is no token.
    """
    n, values = tokens_B.double(), values_B.nan_to_num(0.0)
    total = n.sum()
    if total == 0:
        return values_B
    mean = (n * values).sum() / total
    variance = (n * (values - mean) ** 2).sum() / total
    return (values_B - mean) / variance.clamp(min=MIN_VARIANCE).sqrt()
