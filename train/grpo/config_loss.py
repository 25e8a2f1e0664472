"""Settings of the section `loss_fn`. Key names follow NeMo RL where it has the setting; docs/grpo-algorithms.md has the formulas."""

import logging
from typing import Literal, Self

from pydantic import Field, model_validator

from ...base.config import Section

log = logging.getLogger("rollhouse")


class LossConfig(Section):
    """The policy loss."""

    objective: Literal["clip", "cispo"] = "clip"
    """`clip` is PPO's; `cispo` weighs the logprob's gradient by the clipped ratio and clips no token away."""
    ratio_clip_min: float = Field(default=0.2, ge=0)
    """The ratio may fall to 1 - this."""
    ratio_clip_max: float = Field(default=0.2, ge=0)
    """The ratio may rise to 1 + this."""
    ratio_clip_c: float | None = Field(default=None, gt=1)
    """Dual clip: where the advantage is negative the loss is at most -this * advantage; None is off."""
    sequence_level_importance_ratios: bool = False
    """GSPO: one ratio a rollout, the geometric mean of its tokens'. Wants token_level_loss off and tiny clip bounds."""
    token_level_loss: bool = True
    """Mean over the step's sampled tokens; off is the mean over rollouts of each one's mean."""
    fixed_length: int | None = Field(default=None, ge=1)
    """Sum over tokens divided by the number of rollouts times this (Dr. GRPO), instead of either mean; None is off."""
    old_logprobs: Literal["learner", "engine"] = "learner"
    """Whose logprobs the ratio is taken against: the learner's before the batch's first update, or the engine's."""
    use_importance_sampling_correction: bool = True
    """Correct for the engine (and for age) by w = exp(learner - engine); only with old_logprobs `learner`."""
    truncated_importance_sampling_type: Literal["tis", "icepop", "seq-mask-tis"] = "tis"
    """`tis`: w clipped to the bounds; `icepop`: tokens whose w is out of bounds count nothing; `seq-mask-tis`: so do whole rollouts whose geometric mean is."""
    truncated_importance_sampling_ratio: float = Field(default=2.0, gt=0)
    """Upper bound."""
    truncated_importance_sampling_ratio_min: float = Field(default=0.0, ge=0)
    """Lower bound; `icepop` and `seq-mask-tis` need one."""
    reference_policy_kl_penalty: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence to the model the run started from; 0 loads no reference."""
    reference_policy_kl_type: Literal["k1", "k2", "k3"] = "k3"
    """The estimate in the loss."""
    use_bias_correction_kl: bool = True
    """Multiply the KL in the loss by the token's ratio, which makes its gradient that of the KL (DeepSeek-V3.2); off differentiates the bare estimate."""
    use_kl_in_reward: bool = False
    """Take the KL (k1, summed over a rollout) off the reward instead of adding it to the loss."""
    entropy_bonus: float = Field(default=0.0, ge=0)
    """Weight of the mean entropy, which is taken off the loss."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        kind, low = self.truncated_importance_sampling_type, self.truncated_importance_sampling_ratio_min
        high = self.truncated_importance_sampling_ratio
        if self.use_importance_sampling_correction and self.old_logprobs == "learner":
            if kind != "tis" and low == 0:
                raise ValueError(
                    f"{kind} needs a lower bound: set truncated_importance_sampling_ratio_min (1 / {high:g}, say)"
                )
            if not low <= 1 <= high:
                raise ValueError(
                    f"the bounds of {kind} are {low:g} and {high:g}: 1, where learner and engine agree, must lie within"
                )
        if self.objective == "cispo" and self.ratio_clip_c is not None:
            raise ValueError("cispo clips no token away, so ratio_clip_c (dual clip) has nothing to do: leave it out")
        if self.use_kl_in_reward and self.reference_policy_kl_penalty == 0:
            raise ValueError("use_kl_in_reward needs a weight: set reference_policy_kl_penalty")
        if self.sequence_level_importance_ratios and (self.token_level_loss or self.fixed_length):
            log.warning(
                "loss_fn: one ratio a rollout with a sum over tokens weighs rollouts by their length; "
                "GSPO is token_level_loss=false without fixed_length."
            )
        bare_k1 = self.reference_policy_kl_type == "k1" and not self.use_bias_correction_kl
        if self.reference_policy_kl_penalty and not self.use_kl_in_reward and bare_k1:
            log.warning(
                "loss_fn: k1 in the loss without use_bias_correction_kl has an expected gradient of 0: it holds nothing back."
            )
        return self
