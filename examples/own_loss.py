"""A GRPO loss and an advantage of your own: `train grpo … loss_fn.custom=own_loss.py:clipped grpo.advantage=own_loss.py:shorter_is_better`."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rollhouse.train.grpo.custom import AdvantageInputs
    from rollhouse.train.grpo.loss import LossInputs


def clipped(inputs: "LossInputs") -> tuple[Tensor, dict[str, Tensor]]:
    """The default loss, written out: PPO's clip between 0.8 and 1.2, times the engine's weight, at most 2.

    One value per token, [B, T]; the trainer sums them over the step and divides by its number of sampled tokens. `loss/outside` is
    the share of tokens whose ratio is outside the bounds.
    """
    advantages = inputs.advantages.unsqueeze(-1)
    log_ratio = torch.where(inputs.mask, inputs.logprobs - inputs.old_logprobs, 0.0)
    ratio = log_ratio.clamp(max=20.0).exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    gap = torch.where(inputs.mask, inputs.old_logprobs - inputs.engine_logprobs, 0.0)
    weight = gap.clamp(max=20.0).exp().clamp(0.0, 2.0).detach()
    return weight * loss, {"outside": (ratio < 0.8) | (ratio > 1.2)}


def reinforce(inputs: "LossInputs") -> tuple[Tensor, dict[str, Tensor]]:
    """REINFORCE with one value per rollout, [B]: minus the advantage times the mean logprob of its sampled tokens."""
    n = inputs.mask.sum(-1).clamp(min=1)
    mean = torch.where(inputs.mask, inputs.logprobs, 0.0).sum(-1) / n
    return -inputs.advantages * mean, {"mean_logprob": mean}


def shorter_is_better(inputs: "AdvantageInputs") -> Tensor:
    """GRPO's advantage; of rollouts with one reward the shorter ones are preferred a little."""
    rewards = inputs.rewards - 1e-4 * inputs.n_tokens
    return (rewards - rewards.mean()) / (rewards.std() + 1e-6)
