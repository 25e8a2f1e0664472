"""GRPO, group relative policy optimization: Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300.

    A_i    = (r_i - m) / (s + 1e-6)                          m, s: mean and sample standard deviation of the group's rewards
    loss_t = -min(ratio_t * A_i, clip(ratio_t, 1 - low, 1 + high) * A_i)

The ratio is exp(logprob now - logprob before the first update on the batch). The settings of the preset are the defaults.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6


def settings(max_length: int) -> dict[str, Any]:
    """The preset: nothing differs from the defaults."""
    return {}


def normalized(deviations_B: "Tensor", std_B: "Tensor", eps: float = EPS) -> "Tensor":
    """A = (r - m) / (s + eps), arXiv:2402.03300, eq. 3.

    Args:
        deviations_B: [B] float64: reward minus baseline.
        std_B: [B] float64: sample standard deviation (n - 1) of the rollout's group.
    """
    return deviations_B / (std_B + eps)


def clipped_loss(ratio: "Tensor", advantages: "Tensor", low: float, high: float, dual: float | None = None) -> "Tensor":
    """PPO's clipped surrogate per token (Schulman et al. 2017, arXiv:1707.06347, eq. 7), with a bound on either side.

        loss = -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)
        loss = min(loss, -dual * A)  where A < 0                      dual clip (Ye et al. 2020, arXiv:1912.09729)

    Args:
        ratio: [B, T] with gradient.
        advantages: [B, 1].
        dual: None is off.

    Returns:
        [B, T].
    """
    loss = -(ratio * advantages).minimum(ratio.clamp(1 - low, 1 + high) * advantages)
    if dual is not None:
        loss = loss.minimum(-dual * advantages).where(advantages < 0, loss)
    return loss
