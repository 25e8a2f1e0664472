"""The policy loss of one micro-batch, from the ratio to the number that is minimised. Read `policy_loss` first.

Three logprobs of one sampled token are kept apart: the engine's when it was sampled (`engine`), the learner's before the
first update on the batch (`old`), and the learner's now (`logprobs`). exp(logprobs - old) is the PPO ratio, exp(old - engine)
the weight that corrects for engine and learner not agreeing; they are never mixed up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..learner.settings import LossSettings
from .aggregation import StepTotals, aggregate, token_mean
from .correction import correction_weights
from .kl import kl_divergence, kl_loss

# exp of more than this is no estimate of anything, and in float32 soon infinite; beyond it a token has no gradient.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch of B sequences with at most T positions each; what stands where the mask is False is never looked at.

    Attributes:
        logprobs: [B, T] float32 with gradient: the learner's now.
        old: [B, T]: those the ratio is taken against; logprobs.detach() at the first update.
        engine: [B, T]: the engine's when it sampled.
        mask: [B, T] bool: True at tokens that the policy sampled; prompts and tool results are False.
        advantages: [B], one a sequence.
        reference: [B, T]: the logprobs of the model the run started from; None when it is not loaded.
        entropies: [B, T]: with gradient where the entropy has a weight in the loss; None when they were not computed.
    """

    logprobs: Tensor
    old: Tensor
    engine: Tensor
    mask: Tensor
    advantages: Tensor
    reference: Tensor | None = None
    entropies: Tensor | None = None


@dataclass(frozen=True)
class PolicyLoss:
    """A micro-batch's share of the step's loss, and what it is made of.

    Attributes:
        loss: Scalar with gradient. Summed over all micro-batches of all ranks it is the loss of the step.
        terms: [B, T] matrices without gradient, meaningful where the mask is True:
            `ratio`; `clipped_low`, `clipped_high`, `clipped_dual` (bool: which bound acted); `weight` (the correction's) and `masked` (bool:
            the correction took the token out); `kl_k1` and `kl_k3` when the reference is loaded.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def policy_loss(inputs: LossInputs, totals: StepTotals, settings: LossSettings) -> PolicyLoss:
    """The loss of a micro-batch: clipped, corrected, with its KL term, aggregated, less the entropy bonus.

    Args:
        totals: Counts of the whole optimizer step, so that the sum over micro-batches and ranks does not depend on the split.
    """
    s, mask, advantages = settings, inputs.mask, inputs.advantages.unsqueeze(-1)
    log_ratio = torch.where(mask, inputs.logprobs - inputs.old, 0.0)
    ratio = (sequence_log_ratio(log_ratio, mask) if s.sequence_ratio else log_ratio).clamp(max=MAX_LOG_RATIO).exp()
    if s.objective == "cispo":
        loss = cispo_loss(inputs.logprobs, ratio, advantages, s.clip_low, s.clip_high)
    else:
        loss = clipped_loss(ratio, advantages, s.clip_low, s.clip_high, s.dual_clip)
    terms = {"ratio": ratio} | clipped_tokens(ratio, advantages, s)

    kind = s.correction if s.old_logprobs == "learner" else "none"
    weight, masked = correction_weights(inputs.old, inputs.engine, mask, kind, s.correction_min, s.correction_max)
    loss = weight * loss
    terms |= {"weight": weight, "masked": masked}

    if s.kl_coef and not s.kl_in_reward:
        to_reference = torch.where(mask, _need(inputs.reference, "logprobs of the reference") - inputs.logprobs, 0.0)
        by_token = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
        loss = loss + s.kl_coef * kl_loss(to_reference, by_token, s.kl_type, s.kl_unbiased)
    if inputs.reference is not None:
        apart = torch.where(mask, inputs.reference - inputs.logprobs.detach(), 0.0)
        terms |= {f"kl_{kind}": kl_divergence(apart, kind) for kind in ("k1", "k3")}

    total = aggregate(loss, mask, totals, s.aggregation, s.fixed_length)
    if s.entropy_coef:
        total = total - s.entropy_coef * token_mean(_need(inputs.entropies, "entropies"), mask, totals.n_tokens)
    return PolicyLoss(total, {name: term.detach() for name, term in terms.items()})


def clipped_loss(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """PPO's clipped surrogate per token (Schulman et al. 2017, arXiv:1707.06347, eq. 7), with two bounds ("clip-higher", arXiv:2503.14476).

        loss = -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)
        loss = min(loss, -dual * A)  where A < 0                      dual clip (Ye et al. 2020, arXiv:1912.09729)

    Args:
        ratio: [B, T] with gradient.
        advantages: [B, 1].

    Returns:
        [B, T].
    """
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    if dual is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual * advantages), loss)
    return loss


def cispo_loss(logprobs: Tensor, ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """REINFORCE weighed by the clipped ratio, which takes no token's gradient away (MiniMax 2025, arXiv:2506.13585, eq. 4).

    loss = -stop(clip(ratio, 1 - low, 1 + high)) * A * logprobs                                          [B, T]
    """
    return -ratio.detach().clamp(1 - low, 1 + high) * advantages * logprobs


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """GSPO: the mean of a sequence's log ratios at each of its tokens (Zheng et al. 2025, arXiv:2507.18071).

    The value is the same at every token and the gradient each token's own ("GSPO-token"). Where all tokens of a sequence weigh
    the same, which token-level correction weights change, it is the gradient of one ratio a sequence.
    Takes and returns [B, T]; `log_ratio` is 0 where the mask is False.
    """
    mean = log_ratio.detach().sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return log_ratio - log_ratio.detach() + mean


def clipped_tokens(ratio: Tensor, advantages: Tensor, settings: LossSettings) -> dict[str, Tensor]:
    """Where a bound acted, [B, T] bool each: the clip takes a token's gradient away, CISPO's caps its weight."""
    ratio = ratio.detach()
    low, high = ratio < 1 - settings.clip_low, ratio > 1 + settings.clip_high
    if settings.objective == "cispo":
        return {"clipped_low": low, "clipped_high": high}
    acted = {"clipped_low": low & (advantages < 0), "clipped_high": high & (advantages > 0)}
    if settings.dual_clip is not None:
        acted["clipped_dual"] = (ratio > settings.dual_clip) & (advantages < 0)
    return acted


def _need(matrix: Tensor | None, name: str) -> Tensor:
    if matrix is None:
        raise ValueError(f"the loss needs {name}, and its inputs have none")
    return matrix
