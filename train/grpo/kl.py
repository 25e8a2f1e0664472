"""Estimates of the KL divergence to the reference, KL(learner || reference), from one sampled token (Schulman 2020, "Approximating KL divergence")."""

from torch import Tensor

# k3's exp is kept finite; beyond it k3 has no gradient.
MAX_LOG_RATIO = 20.0


def kl_divergence(to_reference: Tensor, kind: str) -> Tensor:
    """With d = reference's logprob - learner's, of tokens sampled from the learner:

        k1 = -d                  unbiased, of either sign
        k2 = d^2 / 2             biased, little variance; its gradient is that of the KL
        k3 = exp(d) - 1 - d      unbiased, never negative

    As a term of the loss they are differentiated where they stand: k1's expected gradient is then 0 on-policy.

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
