"""Estimates of the KL divergence to the reference, KL(learner || reference), from one sampled token (Schulman 2020, "Approximating KL divergence")."""

from torch import Tensor

# k3's exp is kept finite; beyond it k3 has no gradient.
MAX_LOG_RATIO = 20.0


def kl_divergence(to_reference: Tensor, kind: str) -> Tensor:
    """With d = reference's logprob - learner's, of tokens sampled from the learner:

        k1 = -d                  unbiased, of either sign
        k2 = d^2 / 2             biased, little variance; its gradient is that of the KL
        k3 = exp(d) - 1 - d      unbiased, never negative

    Args:
        to_reference: [B, T], d.

    Returns:
        [B, T].
    """
    if kind == "k1":
        return -to_reference
    if kind == "k2":
        return to_reference**2 / 2
    if kind == "k3":
        return to_reference.clamp(max=MAX_LOG_RATIO).exp() - 1 - to_reference
    raise ValueError(f"no KL estimate {kind!r}")


def kl_loss(to_reference: Tensor, ratio: Tensor, kind: str, unbiased: bool) -> Tensor:
    """The estimate as a term of the loss, [B, T]; `ratio` is the token's own, [B, T] with gradient.

    Unbiased, its expected gradient is that of the KL: k1 and k3 are multiplied by the ratio (DeepSeek-AI 2025, arXiv:2512.02556),
    k2, whose own gradient is right already, by the ratio without gradient. Bare, k1's expected gradient is 0 and k3's
    that of KL(reference || learner).
    """
    estimate = kl_divergence(to_reference, kind)
    if not unbiased:
        return estimate
    return estimate * (ratio.detach() if kind == "k2" else ratio)
