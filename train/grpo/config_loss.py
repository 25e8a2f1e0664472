"""Settings of the section `loss_fn`. Key names follow NeMo RL where it has the setting; docs/grpo-algorithms.md has the formulas."""

import logging
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...base.config import FREE, Content, Section
from ...base.plugins import plugin_hash

log = logging.getLogger("rollhouse")

_POLICY_TERM = (
    "objective",
    "ratio_clip_min",
    "ratio_clip_max",
    "ratio_clip_c",
    "sequence_level_importance_ratios",
    "use_importance_sampling_correction",
    "truncated_importance_sampling_type",
    "truncated_importance_sampling_ratio",
    "truncated_importance_sampling_ratio_min",
)
"""Settings of the built-in policy term, which a user's own loss does not read."""


class TeacherConfig(Section):
    """On-policy distillation: a teacher scores the tokens that the policy sampled. See docs/grpo-algorithms.md."""

    model: str | None = None
    """Teacher: a checkpoint, a run, a model folder or a hub name; for an endpoint the name of the model that it serves. Its tokens are the policy's. Default: no teacher."""
    engine: Annotated[str, FREE] = "torch"
    """What computes its logprobs: torch, vllm, or openai:URL, a vLLM server."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the KL divergence to the teacher."""
    term: Literal["advantage", "loss"] = "advantage"
    """Subtract the KL of each token from its advantage, or add an estimate of it (reference_policy_kl_type) to the loss."""
    reward_weight: float = Field(default=1.0, ge=0)
    """Weight of the advantage from rewards; 0 learns from the teacher alone."""


class LossConfig(Section):
    """The policy loss."""

    custom: Annotated[str | None, Content(plugin_hash)] = None
    """Your own loss, `module:name` or `FILE.py:name`, instead of objective, clip and correction. See docs/grpo-algorithms.md."""
    objective: Literal["clip", "cispo"] = "clip"
    """`clip` is the objective of PPO; `cispo` weights the gradient of the logprob by the clipped ratio, so that every token has a gradient."""
    ratio_clip_min: float = Field(default=0.2, ge=0)
    """The ratio is clipped below at 1 - X."""
    ratio_clip_max: float = Field(default=0.2, ge=0)
    """The ratio is clipped above at 1 + X."""
    ratio_clip_c: float | None = Field(default=None, gt=1)
    """Dual clip: where the advantage is negative, the loss is at most -X * advantage. Default: off."""
    sequence_level_importance_ratios: bool = False
    """GSPO: one ratio per rollout, the geometric mean over its tokens. Use it with token_level_loss off and very small clip bounds."""
    token_level_loss: bool = True
    """Mean over all sampled tokens of the step; off is the mean over rollouts of the mean over tokens."""
    fixed_length: int | None = Field(default=None, ge=1)
    """Sum over tokens divided by N times the number of rollouts (Dr. GRPO), instead of either mean. Default: off."""
    old_logprobs: Literal["learner", "engine"] = "learner"
    """Logprobs in the denominator of the ratio: those of the learner before the first update of the batch, or those of the engine."""
    use_importance_sampling_correction: bool = True
    """Correct for differences between engine and learner, age included, with weights w = exp(learner - engine). Only with old_logprobs=learner."""
    truncated_importance_sampling_type: Literal["tis", "icepop", "seq-mask-tis"] = "tis"
    """`tis` clips w to the bounds; `icepop` masks tokens whose w is out of bounds; `seq-mask-tis` masks rollouts whose geometric mean of w is out of bounds."""
    truncated_importance_sampling_ratio: float = Field(default=2.0, gt=0)
    """Upper bound of w."""
    truncated_importance_sampling_ratio_min: float = Field(default=0.0, ge=0)
    """Lower bound of w; `icepop` and `seq-mask-tis` need one."""
    reference_policy_kl_penalty: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence to the model that the run started from; 0 loads no reference model."""
    reference_policy_kl_type: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence in the loss."""
    use_bias_correction_kl: bool = True
    """Multiply the KL in the loss by the ratio of the token, so that its gradient is that of the KL divergence (DeepSeek-V3.2)."""
    use_kl_in_reward: bool = False
    """Subtract the KL (k1, summed over a rollout) from the reward instead of adding it to the loss."""
    entropy_bonus: float = Field(default=0.0, ge=0)
    """Weight of the mean entropy, which is subtracted from the loss."""
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)

    @model_validator(mode="after")
    def _custom_stands_alone(self) -> Self:
        if self.custom is not None:
            for name in _POLICY_TERM:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"custom replaces {name}: set only one of them")
        return self

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
            raise ValueError("ratio_clip_c (dual clip) has no effect with cispo: remove it")
        if self.use_kl_in_reward and self.reference_policy_kl_penalty == 0:
            raise ValueError("use_kl_in_reward needs a weight: set reference_policy_kl_penalty")
        if self.sequence_level_importance_ratios and (self.token_level_loss or self.fixed_length):
            log.warning(
                "loss_fn: one ratio per rollout with a sum over tokens weights rollouts by their length; "
                "GSPO is token_level_loss=false without fixed_length."
            )
        bare_k1 = self.reference_policy_kl_type == "k1" and not self.use_bias_correction_kl
        if self.reference_policy_kl_penalty and not self.use_kl_in_reward and bare_k1:
            log.warning(
                "loss_fn: k1 in the loss without use_bias_correction_kl has an expected gradient of 0, so it has no effect."
            )
        return self
