"""Weights for engine and learner not agreeing, and for age: w = exp(old - engine), never with gradient.

Tokens were sampled with the engine's probabilities; w makes an expectation under them one under the learner's. What is taken
out by a weight of 0 stays in every divisor, otherwise the tokens that are left would count for more.
"""

import torch
from torch import Tensor

# exp of more is infinite soon, and 0 * infinity is no number.
MAX_LOG_WEIGHT = 20.0


@torch.no_grad()
def correction_weights(
    old: Tensor, engine: Tensor, mask: Tensor, kind: str, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """The weight of each token's loss by the correction of that name, and which tokens it takes out.

        none            1
        tis             clip(w, low, high)                         Yao et al. 2025, "Your efficient RL framework secretly brings you
                                                                   off-policy RL training"
        icepop          w where low <= w <= high, else 0           Ling Team 2025, arXiv:2510.18855
        seq-mask-tis    w where low <= exp(mean over the sequence of old - engine) <= high, else 0 for the whole sequence

    The geometric mean does not grow with length as the product over a sequence does.

    Args:
        old, engine, mask: [B, T].

    Returns:
        weights [B, T], 1 where the mask is False; taken out [B, T] bool, False there.
    """
    gap = torch.where(mask, old - engine, 0.0)
    weight = gap.clamp(max=MAX_LOG_WEIGHT).exp()
    if kind == "none":
        return torch.ones_like(weight), torch.zeros_like(mask)
    if kind == "tis":
        return torch.where(mask, weight.clamp(low, high), 1.0), torch.zeros_like(mask)
    if kind == "icepop":
        judged = weight
    elif kind == "seq-mask-tis":
        judged = (gap.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).exp()
    else:
        raise ValueError(f"no correction {kind!r}")
    out = mask & ((judged < low) | (judged > high))
    return weight.masked_fill(out, 0.0), out
