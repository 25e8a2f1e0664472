"""On-policy distillation: the policy samples, a teacher scores its tokens. Agarwal et al. 2024, arXiv:2306.13649 (GKD with data of the student);
as an advantage by token: Lu et al. 2025, "On-Policy Distillation".

    KL_t = old_t - teacher_t                     of a sampled token; its expectation is KL(policy || teacher), the reverse KL
    A_t  = reward_weight * A - weight * KL_t     term=advantage
    loss_t += weight * KL estimate               term=loss: k1, k2 or k3 of d = teacher_t - now_t (loss.kl_term)

`old` is without gradient, so that term=advantage is a policy gradient whose reward of a token is its KL, without discount: what a token does to later ones
is not counted.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def distilled_advantages(own: "Tensor", old: "Tensor", teacher: "Tensor", mask: "Tensor", weight: float) -> "Tensor":
    """The advantage of each token less its weighted KL to the teacher, [B, T], 0 where the mask is False.

    Args:
        own: [B, T] or [B, 1], of rewards and weighted.
        old, teacher: [B, T] logprobs of the policy before the first update, and of the teacher.
        weight: 0 where the KL is no part of the advantage.
    """
    found = own.expand(mask.shape)
    found = found - weight * (old - teacher) if weight else found
    return found.where(mask, found.new_zeros(()))
