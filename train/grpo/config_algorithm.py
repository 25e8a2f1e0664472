"""Settings of the section `grpo`: what a step consumes, how rewards become advantages, and when the run ends."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ...base.config import Section


class RewardShapingConfig(Section):
    """What is taken off a reward before groups are compared. The row keeps the verdict; the plan has what was compared."""

    overlong_buffer_length: int | None = Field(default=None, ge=1)
    """Soft punishment of length (DAPO, eq. 13): it begins so many sampled tokens before max_response_length; None is off."""
    overlong_buffer_penalty: float = Field(default=1.0, ge=0)
    """What is taken off at max_response_length."""
    max_response_length: int | None = Field(default=None, ge=1)
    """Sampled tokens of a rollout; None is policy.max_total_sequence_length."""
    stop_properly_penalty_coef: float | None = Field(default=None, ge=0, le=1)
    """What a truncated rollout keeps of a reward above 0; None is off."""
    invalid_tool_call_penalty: float = Field(default=0.0, ge=0)
    """Taken off a rollout in which a tool call did not parse, once."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        buffer, length = self.overlong_buffer_length, self.max_response_length
        if buffer and length and buffer > length:
            raise ValueError(f"overlong_buffer_length ({buffer}) is more than max_response_length ({length})")
        if buffer and self.stop_properly_penalty_coef is not None:
            raise ValueError("overlong_buffer_length and stop_properly_penalty_coef both punish length: leave one out")
        return self


class AsyncConfig(Section):
    """Generation that goes on while the learner steps."""

    enabled: bool = False
    max_trajectory_age_steps: int = Field(default=1, ge=0)
    """A rollout of step k is begun by weights of version k - 1 - this or newer; nothing is generated that would be older."""
    in_flight_weight_updates: bool = True
    """New weights go in between two tokens of what is being sampled; off waits until nothing is in flight."""


class WarmStartConfig(Section):
    """The first batches from rollouts that are in the store already."""

    runs: list[str] = Field(default_factory=list)
    """Runs whose rollouts may be used; none is off."""
    num_steps: int = Field(default=0, ge=0)
    """The first so many steps generate nothing, as long as history has groups for them."""
    max_ratio: float = Field(default=2.0, gt=1)
    """A rollout is used when the geometric mean of exp(learner - engine) over its tokens is within [1 / this, this]."""


class CurriculumConfig(Section):
    """The next prompts chosen by SQL over what the store knows by then."""

    query: str | None = None
    """A named query, or a FILE.sql, that returns task_id (and, to draw by weight, weight); None is off."""
    every: int = Field(default=1, ge=1)
    """It is asked before step 1 and after every so many steps."""


class EarlyStopConfig(Section):
    """Ends a run before max_num_steps. Looked at after each validation."""

    metric_name: str = "val:accuracy"
    higher_is_better: bool = True
    patience: int | None = Field(default=None, ge=1)
    """Validations without a better value than before; None is off."""
    min_delta: float = Field(default=0.0, ge=0)
    """By so much a value must be better to count."""
    target: float | None = None
    """A value as good as this ends the run; None is off."""


class AlgorithmConfig(Section):
    """What a step consumes and how rewards become advantages."""

    num_prompts_per_step: int = Field(default=8, ge=1)
    num_generations_per_prompt: int = Field(default=8, ge=1)
    """Rollouts of one prompt: the group whose rewards are compared."""
    max_num_steps: int = Field(default=20, ge=1)
    num_updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer updates on each batch. From the second on the ratio is not 1 and the clip acts."""
    normalize_rewards: bool = True
    """Divide by the group's standard deviation; off is Dr. GRPO."""
    use_leave_one_out_baseline: bool = False
    """Compare with the mean of the other rollouts instead of the whole group's."""
    whiten_advantages: bool = False
    """Whiten advantages over the sampled tokens of the batch; with normalize_rewards off this is REINFORCE++ with a baseline."""
    overlong_filtering: bool = False
    """Truncated rollouts keep their reward in the group's statistics but are not trained on."""
    use_dynamic_sampling: bool = False
    """Groups whose rewards are all equal are replaced by groups of further prompts."""
    dynamic_sampling_max_gen_batches: int = Field(default=10, ge=1)
    """So many rounds of generation a step at most; then the step trains on what there is."""
    reward_shaping: RewardShapingConfig = Field(default_factory=RewardShapingConfig)
    async_grpo: AsyncConfig = Field(default_factory=AsyncConfig)
    warm_start: WarmStartConfig = Field(default_factory=WarmStartConfig)
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    early_stop: EarlyStopConfig = Field(default_factory=EarlyStopConfig)
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite ends the run, or costs only its step."""
    val_period: int = Field(default=0, ge=0)
    """Validate after every so many steps; 0 never does."""
    val_at_start: bool = False
    val_at_end: bool = False
    max_val_samples: int | None = Field(default=None, ge=1)
    """The first so many validation tasks; None takes all."""
    seed: int = 0
    """Decides the order of prompts and the sampling."""

    @model_validator(mode="after")
    def _stops_by_what_is_measured(self) -> Self:
        stop = self.early_stop
        if (stop.patience is not None or stop.target is not None) and not self.val_period:
            raise ValueError("early_stop looks at validations, and there are none: set grpo.val_period")
        return self
