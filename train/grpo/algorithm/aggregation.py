"""From a loss per token to a number. Every divisor is a count of the whole optimizer step, over all micro-batches and ranks.

What the parts of a step return is summed; the sum then does not depend on how the step was split.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepTotals:
    """Counts of a whole optimizer step.

    Attributes:
        n_tokens: Sampled tokens.
        n_sequences: Sequences that have any.
    """

    n_tokens: int
    n_sequences: int


def aggregate(
    values: Tensor, mask: Tensor, totals: StepTotals, aggregation: str, fixed_length: int | None = None
) -> Tensor:
    """This part's share of the step's number, by the aggregation of that name; values and mask are [B, T]."""
    if aggregation == "token_mean":
        return token_mean(values, mask, totals.n_tokens)
    if aggregation == "sequence_mean":
        return sequence_mean(values, mask, totals.n_sequences)
    if aggregation == "fixed_length" and fixed_length:
        return token_mean(values, mask, totals.n_sequences * fixed_length)
    raise ValueError(f"no aggregation {aggregation!r} with fixed_length {fixed_length}")


def token_mean(values: Tensor, mask: Tensor, n_tokens: int) -> Tensor:
    """Sum over sampled tokens / `n_tokens`: every token weighs the same (Yu et al. 2025, arXiv:2503.14476, eq. 8).

    With `n_tokens` = sequences * a fixed length it is Dr. GRPO's constant divisor (Liu et al. 2025, arXiv:2503.20783).
    """
    return torch.where(mask, values, 0.0).sum() / max(n_tokens, 1)


def sequence_mean(values: Tensor, mask: Tensor, n_sequences: int) -> Tensor:
    """Mean over each sequence's sampled tokens, summed, / `n_sequences`: every sequence weighs the same (arXiv:2402.03300, eq. 3).

    Sequences without a sampled token add nothing, and `n_sequences` does not count them.
    """
    per_sequence = torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return per_sequence.sum() / max(n_sequences, 1)
