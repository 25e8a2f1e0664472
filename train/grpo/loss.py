"""The policy loss, one function a term. All take [B, T] matrices over the predicted positions of B padded sequences.

Three logprobs of one sampled token are kept apart: the engine's when it was sampled (`engine`), the learner's before the
update (`old`), and the learner's now (`logprobs`). exp(logprobs - old) is the PPO ratio, exp(old - engine) the weight that
corrects for engine and learner not agreeing; they are never mixed up. Where the mask is False the matrices hold 0.
"""

import torch
from torch import Tensor


def clipped_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """PPO's clipped surrogate per token, to be minimised (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

        ratio = exp(logprobs - old)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    Two bounds instead of one: Yu et al. 2025, arXiv:2503.14476 ("clip-higher").

    Args:
        logprobs: [B, T] with gradient.
        old: [B, T] without.
        advantages: [B], one a sequence.

    Returns:
        [B, T].
    """
    ratio = torch.exp(logprobs - old)
    advantages = advantages.unsqueeze(-1)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_tokens(
    logprobs: Tensor, old: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Which tokens the clip robs of their gradient: ([B, T] below the low bound, [B, T] above the high bound)."""
    ratio = torch.exp(logprobs - old)
    advantages = advantages.unsqueeze(-1)
    return (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)


def truncated_importance_weights(old: Tensor, engine: Tensor, cap: float) -> Tensor:
    """Weights min(exp(old - engine), cap), [B, T], without gradient: token-level truncated importance sampling.

    They correct for sampling from an engine whose probabilities are not quite the learner's (Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training"; there C = 2).
    """
    return torch.exp(old - engine).clamp(max=cap).detach()


def token_mean(loss: Tensor, mask: Tensor, n_tokens: int) -> Tensor:
    """Sum over sampled tokens divided by `n_tokens`, the count of the whole optimizer step, not of this micro-batch.

    Summed over micro-batches this is the mean over all tokens, however the step was split (arXiv:2503.14476, eq. 8).
    """
    return torch.where(mask, loss, 0.0).sum() / max(n_tokens, 1)


def sequence_mean(loss: Tensor, mask: Tensor, n_sequences: int) -> Tensor:
    """Mean over each sequence's sampled tokens, summed over sequences, divided by `n_sequences` of the whole step.

    Sequences without a sampled token add nothing, and `n_sequences` must not count them (arXiv:2402.03300, eq. 3).
    """
    per_sequence = torch.where(mask, loss, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return per_sequence.sum() / max(n_sequences, 1)
