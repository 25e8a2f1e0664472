"""The policy loss of one micro-batch, from logprobs to the number that is minimised. Read `policy_loss` first.

Three logprobs of one sampled token are kept apart: the engine's when it was sampled (`engine_logprobs`), the learner's before the first update on
the batch (`old_logprobs`), and the learner's now (`logprobs`). exp(logprobs - old) is the PPO ratio, exp(old - engine) the weight that corrects
for differences between engine and learner; they are different things. The formulas of each algorithm are in algorithms/.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .algorithms.cispo import cispo_loss
from .algorithms.dapo import token_mean
from .algorithms.distillation import distilled_advantages
from .algorithms.dr_grpo import fixed_length_mean
from .algorithms.grpo import clipped_loss
from .algorithms.gspo import sequence_log_ratio, sequence_mean
from .algorithms.icepop import out_of_bounds
from .config_loss import LossConfig

MAX_LOG_RATIO = 20.0
"""Log ratios are cut here before exp: more is no estimate of anything, and in float32 soon infinite. A token beyond it has no gradient."""


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch of B rollouts with at most T positions each. Values where the mask is False have no meaning and must not matter.

    Attributes:
        logprobs: [B, T] float32 with gradient: the learner's logprob of each token now.
        old_logprobs: [B, T]: what the ratio is taken against; equal to logprobs.detach() at the first update on a batch, or the engine's with
            loss_fn.old_logprobs=engine.
        engine_logprobs: [B, T]: the engine's when it sampled.
        mask: [B, T] bool: True at tokens that the policy sampled; prompts, tool results and padding are False.
        advantages: [B] float32, one per rollout.
        reference_logprobs: [B, T]: of the model the run started from; None when it is not loaded (reference_policy_kl_penalty is 0).
        entropies: [B, T]: with gradient where entropy_bonus is above 0; None when they were not computed.
        shares: [B] float32: each row's share of its episode's sampled tokens; None when every row is an episode.
        token_advantages: [B, T]: of each token, in place of `advantages`; None where a rollout's holds for all its tokens. `policy_loss` adds a
            teacher's part to it.
        teacher_logprobs: [B, T]: of the teacher; None without one.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    engine_logprobs: Tensor
    mask: Tensor
    advantages: Tensor
    reference_logprobs: Tensor | None = None
    entropies: Tensor | None = None
    shares: Tensor | None = None
    token_advantages: Tensor | None = None
    teacher_logprobs: Tensor | None = None

    def by_token(self) -> Tensor:
        """The advantage of each token, [B, T], or [B, 1] where a rollout's holds for all its tokens."""
        return self.advantages.unsqueeze(-1) if self.token_advantages is None else self.token_advantages


LossFunction = Callable[[LossInputs], tuple[Tensor, dict[str, Tensor]]]
"""A policy loss: LossInputs → (loss, metrics). custom.py has the contract."""


@dataclass(frozen=True)
class StepTotals:
    """Counts of a whole optimizer step, over all micro-batches and ranks.

    Attributes:
        n_tokens: Sampled tokens.
        n_sequences: Episodes that have any.
    """

    n_tokens: int
    n_sequences: int


@dataclass(frozen=True)
class PolicyLoss:
    """A micro-batch's share of the step's loss, and what it is made of.

    Attributes:
        loss: Scalar with gradient. Summed over all micro-batches of all ranks it is the loss of the step.
        terms: [B, T] matrices without gradient, meaningful where the mask is True:
            `ratio`; `clipped_low`, `clipped_high`, `clipped_dual` (bool: which bound acted); `weight` (the correction's) and `masked` (bool:
            the correction left the token out); `kl_k1` and `kl_k3` when the reference is loaded; `kl_teacher` with a teacher; of a user's own loss `ratio` and its metrics
            as `loss/NAME`.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def policy_loss(
    inputs: LossInputs, totals: StepTotals, settings: LossConfig, custom: LossFunction | None = None
) -> PolicyLoss:
    """The loss of a micro-batch: the policy term, plus its KL term, aggregated, minus the entropy bonus.

    Args:
        totals: Counts of the whole optimizer step, so that the sum over micro-batches and ranks does not depend on the split.
        custom: A user's own policy term in place of `policy_term`.
    """
    s, mask = settings, inputs.mask
    # One node of the graph for both terms: the sum of their gradients is rounded in one order.
    log_ratio = torch.where(mask, inputs.logprobs - inputs.old_logprobs, 0.0)
    if s.teacher.model is not None:
        teacher = _need(inputs.teacher_logprobs, "logprobs of the teacher")
        own, weight = s.teacher.reward_weight * inputs.by_token(), s.teacher.weight * (s.teacher.term == "advantage")
        inputs = replace(inputs, token_advantages=distilled_advantages(own, inputs.old_logprobs, teacher, mask, weight))
    if custom is None:
        values, terms = policy_term(inputs, log_ratio, s)
    else:
        values, terms = custom(inputs)
        terms = {"ratio": _ratio(log_ratio)} | {f"loss/{name}": _by_token(term, mask) for name, term in terms.items()}

    kl = _kl_terms(inputs, log_ratio, s)
    if inputs.teacher_logprobs is not None:
        terms |= {"kl_teacher": torch.where(mask, inputs.logprobs.detach() - inputs.teacher_logprobs, 0.0)}
    if inputs.reference_logprobs is not None:
        apart = torch.where(mask, inputs.reference_logprobs - inputs.logprobs.detach(), 0.0)
        terms |= {f"kl_{kind}": kl_divergence(apart, kind) for kind in ("k1", "k3")}

    if values.ndim == 1:  # a user's own loss per rollout
        values = values if inputs.shares is None else values * inputs.shares
        total = torch.where(mask.any(-1), values, 0.0).sum() / max(totals.n_sequences, 1)
        total = total if kl is None else total + aggregate(kl, mask, totals, s, inputs.shares)
    else:
        total = aggregate(values if kl is None else values + kl, mask, totals, s, inputs.shares)
    if s.entropy_bonus:
        total = total - s.entropy_bonus * token_mean(_need(inputs.entropies, "entropies"), mask, totals.n_tokens)
    return PolicyLoss(total, {name: term.detach() for name, term in terms.items()})


def policy_term(inputs: LossInputs, log_ratio: Tensor, settings: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each token without KL, [B, T], and PolicyLoss.terms: the clipped objective times the correction weight.

    `log_ratio` is logprobs - old_logprobs, [B, T] with gradient, 0 where the mask is False.
    """
    s, mask, advantages = settings, inputs.mask, inputs.by_token()
    ratio = _ratio(sequence_log_ratio(log_ratio, mask) if s.sequence_level_importance_ratios else log_ratio)
    if s.objective == "cispo":
        loss = cispo_loss(inputs.logprobs, ratio, advantages, s.ratio_clip_min, s.ratio_clip_max)
    else:
        loss = clipped_loss(ratio, advantages, s.ratio_clip_min, s.ratio_clip_max, s.ratio_clip_c)
    corrected = s.use_importance_sampling_correction and s.old_logprobs == "learner"
    weight, masked = correction_weights(
        inputs.old_logprobs,
        inputs.engine_logprobs,
        mask,
        s.truncated_importance_sampling_type if corrected else "none",
        s.truncated_importance_sampling_ratio_min,
        s.truncated_importance_sampling_ratio,
    )
    terms = {"ratio": ratio} | clipped_tokens(ratio, advantages, s) | {"weight": weight, "masked": masked}
    return weight * loss, terms


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def clipped_tokens(ratio: Tensor, advantages: Tensor, settings: LossConfig) -> dict[str, Tensor]:
    """Where a bound acted, [B, T] bool each: the clip takes a token's gradient away, CISPO's caps its weight."""
    ratio = ratio.detach()
    low, high = ratio < 1 - settings.ratio_clip_min, ratio > 1 + settings.ratio_clip_max
    if settings.objective == "cispo":
        return {"clipped_low": low, "clipped_high": high}
    acted = {"clipped_low": low & (advantages < 0), "clipped_high": high & (advantages > 0)}
    if settings.ratio_clip_c is not None:
        acted["clipped_dual"] = (ratio > settings.ratio_clip_c) & (advantages < 0)
    return acted


# -- the weight for differences between engine and learner ---------------------------------------------------------------


@torch.no_grad()
def correction_weights(
    old: Tensor, engine: Tensor, mask: Tensor, kind: str, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """The weight w = exp(old - engine) of each token's loss by the correction of that name, and which tokens it leaves out.

        none            1
        tis             clip(w, low, high)                         Yao et al. 2025, "Your efficient RL framework secretly brings you
                                                                   off-policy RL training"
        icepop          w where low <= w <= high, else 0           Ling Team 2025, arXiv:2510.18855
        seq-mask-tis    w where low <= exp(mean over the rollout of old - engine) <= high, else 0 for the whole rollout

    Tokens were sampled with the engine's probabilities; w makes an expectation under them one under the learner's. A token that is left out stays
    in every divisor, otherwise the others would count for more. The geometric mean, unlike the product, does not grow with length.

    Args:
        old, engine, mask: [B, T].

    Returns:
        weights [B, T], 1 where the mask is False; left out [B, T] bool, False there.
    """
    gap = torch.where(mask, old - engine, 0.0)
    weight = gap.clamp(max=MAX_LOG_RATIO).exp()
    if kind == "none":
        return torch.ones_like(weight), torch.zeros_like(mask)
    if kind == "tis":
        return torch.where(mask, weight.clamp(low, high), 1.0), torch.zeros_like(mask)
    if kind == "icepop":
        judged = weight
    elif kind == "seq-mask-tis":
        judged = (gap.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).exp()
    else:
        raise ValueError(f"unknown correction {kind!r}")
    out = out_of_bounds(judged, mask, low, high)
    return weight.masked_fill(out, 0.0), out


# -- the KL divergence to the reference ----------------------------------------------------------------------------------


def _kl_terms(inputs: LossInputs, log_ratio: Tensor, settings: LossConfig) -> Tensor | None:
    """The weighted KL to the reference and to the teacher as the loss has them, [B, T]; None where it has neither."""
    s, found = settings, []
    if s.reference_policy_kl_penalty and not s.use_kl_in_reward:
        reference = _need(inputs.reference_logprobs, "logprobs of the reference")
        found.append(s.reference_policy_kl_penalty * kl_term(reference, inputs, log_ratio, s))
    if s.teacher.model is not None and s.teacher.term == "loss":
        teacher = _need(inputs.teacher_logprobs, "logprobs of the teacher")
        found.append(s.teacher.weight * kl_term(teacher, inputs, log_ratio, s))
    return torch.stack(found).sum(0) if len(found) > 1 else found[0] if found else None


def kl_term(reference: Tensor, inputs: LossInputs, log_ratio: Tensor, settings: LossConfig) -> Tensor:
    """The estimate of the KL to a reference, or to a teacher, as a term of the loss, [B, T], before its weight; `log_ratio` as of policy_term.

    With use_bias_correction_kl its expected gradient is that of the KL: k1 and k3 are multiplied by the token's ratio (DeepSeek-AI 2025,
    arXiv:2512.02556), k2, whose own gradient is right already, by the ratio without gradient. Without it, k1's expected gradient is 0 and k3's is
    that of KL(reference || learner).
    """
    kind = settings.reference_policy_kl_type
    estimate = kl_divergence(torch.where(inputs.mask, reference - inputs.logprobs, 0.0), kind)
    if not settings.use_bias_correction_kl:
        return estimate
    ratio = _ratio(log_ratio)
    return estimate * (ratio.detach() if kind == "k2" else ratio)


def kl_divergence(to_reference: Tensor, kind: str) -> Tensor:
    """Estimates of KL(learner || reference) from one sampled token (Schulman 2020, "Approximating KL divergence").

    With d = the reference's logprob - the learner's, of tokens sampled from the learner:

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
    raise ValueError(f"unknown KL estimate {kind!r}")


# -- from a loss per token to a number -----------------------------------------------------------------------------------


def aggregate(
    values: Tensor, mask: Tensor, totals: StepTotals, settings: LossConfig, shares: Tensor | None = None
) -> Tensor:
    """This micro-batch's share of the step's number, as loss_fn aggregates; values and mask are [B, T], shares [B] as in LossInputs.

    Every divisor is a count of the whole optimizer step, so the sum of the shares does not depend on how the step was split.
    """
    if settings.fixed_length is not None:
        return fixed_length_mean(values, mask, totals.n_sequences, settings.fixed_length)
    if settings.token_level_loss:
        return token_mean(values, mask, totals.n_tokens)
    return sequence_mean(values, mask, totals.n_sequences, shares)


def _by_token(values: Tensor, mask: Tensor) -> Tensor:
    """A metric of a user's own loss as [B, T]; one per rollout stands at each of its tokens."""
    return values if values.ndim == 2 else values.unsqueeze(-1).expand(mask.shape)


def _need(matrix: Tensor | None, name: str) -> Tensor:
    if matrix is None:
        raise ValueError(f"the loss needs {name}, which its inputs do not have")
    return matrix
