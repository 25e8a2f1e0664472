"""DAPO, decoupled clip and dynamic sampling policy optimization: Yu et al. 2025, arXiv:2503.14476.

    A_i    = (r_i - p_i - m) / (s + 1e-6)                    p: a penalty for length, m, s: of the rewards less their penalties
    loss_t = -min(ratio_t * A_i, clip(ratio_t, 1 - 0.2, 1 + 0.28) * A_i)                  "clip-higher"
    loss   = sum over tokens / number of tokens              every token weighs the same

Groups whose rewards are all equal are replaced by groups of further prompts ("dynamic sampling").
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def settings(max_length: int) -> dict[str, Any]:
    """The preset. The length penalty begins at 4/5 of policy.max_total_sequence_length, as in the paper (4096 of 20480 tokens)."""
    return {
        "grpo": {
            "use_dynamic_sampling": True,
            "reward_shaping": {"overlong_buffer_length": max(1, max_length // 5)},
        },
        "loss_fn": {"ratio_clip_min": 0.2, "ratio_clip_max": 0.28, "token_level_loss": True},
    }


def overlong_penalty(n_sampled: int, max_length: int, buffer: int, penalty: float) -> float:
    """p: 0 up to max_length - buffer sampled tokens, then linear up to `penalty` at max_length and beyond (eq. 13)."""
    return penalty * min(1.0, max(0.0, (n_sampled - (max_length - buffer)) / buffer))


def token_mean(values: "Tensor", mask: "Tensor", n_tokens: int) -> "Tensor":
    """Sum over sampled tokens / n_tokens (eq. 8).

    Args:
        values: [B, T]; mask: [B, T] bool, True at sampled tokens.
        n_tokens: Sampled tokens of the whole optimizer step.
    """
    return values.where(mask, 0.0).sum() / max(n_tokens, 1)
