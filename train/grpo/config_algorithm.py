"""Settings of the section `grpo`: the batch of a step, how rewards become advantages, and when the run ends."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...base.config import FREE, Content, Flag, Section
from ...base.plugins import plugin_hash


class RewardShapingConfig(Section):
    """Penalties that are subtracted from a reward before groups are compared. The rollout keeps its reward; the plan has the shaped one."""

    overlong_buffer_length: int | None = Field(default=None, ge=1)
    """Soft length penalty (DAPO, eq. 13): it begins N sampled tokens before max_response_length. Default: off."""
    overlong_buffer_penalty: float = Field(default=1.0, ge=0)
    """Penalty at max_response_length."""
    max_response_length: int | None = Field(default=None, ge=1)
    """Sampled tokens of a rollout at which the penalty is full. Default: policy.max_total_sequence_length."""
    stop_properly_penalty_coef: float | None = Field(default=None, ge=0, le=1)
    """Share of a positive reward that a truncated rollout keeps. Default: off."""
    invalid_tool_call_penalty: float = Field(default=0.0, ge=0)
    """Penalty of a rollout with a tool call that could not be parsed, subtracted once."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        buffer, length = self.overlong_buffer_length, self.max_response_length
        if buffer and length and buffer > length:
            raise ValueError(f"overlong_buffer_length ({buffer}) is more than max_response_length ({length})")
        if buffer and self.stop_properly_penalty_coef is not None:
            raise ValueError(
                "overlong_buffer_length and stop_properly_penalty_coef both penalize length: remove one of them"
            )
        return self


class AsyncConfig(Section):
    """Generation that continues while the learner steps."""

    enabled: bool = False
    max_trajectory_age_steps: int = Field(default=1, ge=0)
    """Largest age of rollouts in steps: a rollout for step k starts with weights of version k - 1 - N or newer."""
    in_flight_weight_updates: bool = True
    """Update weights between two tokens of rollouts in flight; off waits until no rollout is in flight."""


class WarmStartConfig(Section):
    """First batches from rollouts that the store already has."""

    runs: list[str] = Field(default_factory=list)
    """Runs whose rollouts may be used. Default: off."""
    num_steps: int = Field(default=0, ge=0)
    """Steps that generate nothing, as long as these runs have groups for them."""
    max_ratio: float = Field(default=2.0, gt=1)
    """Use a rollout when the geometric mean of exp(learner - engine) over its tokens is within [1 / X, X]."""


class CurriculumConfig(Section):
    """Next prompts chosen by a query over the store."""

    query: str | None = None
    """A named query, or a FILE.sql, that returns task_id, or environment, and optionally weight. Default: off."""
    every: int = Field(default=1, ge=1)
    """Run the query before step 1 and after every N steps."""


class EarlyStopConfig(Section):
    """Rules that end a run before max_num_steps, checked after each validation."""

    metric_name: str = "val:accuracy"
    higher_is_better: bool = True
    patience: int | None = Field(default=None, ge=1)
    """Validations without a better value after which the run ends. Default: off."""
    min_delta: float = Field(default=0.0, ge=0)
    """Least improvement that counts as better."""
    target: float | None = None
    """Value that ends the run when it is reached. Default: off."""


class AlgorithmConfig(Section):
    """Settings of the section `grpo`."""

    num_prompts_per_step: Annotated[int, Flag("Training")] = Field(default=8, ge=1)
    """Prompts per optimizer step."""
    num_generations_per_prompt: Annotated[int, Flag("Training")] = Field(default=8, ge=1)
    """Rollouts per prompt; their rewards are compared as a group."""
    max_num_steps: Annotated[int, Flag("Training"), FREE] = Field(default=20, ge=1)
    """Optimizer steps."""
    num_updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer updates per batch. From the second on, the ratio differs from 1 and the clip takes effect."""
    advantage: Annotated[str | None, Content(plugin_hash)] = None
    """Your own advantage, `module:name` or `FILE.py:name`, instead of the next two settings. See docs/grpo-algorithms.md."""
    normalize_rewards: bool = True
    """Divide advantages by the standard deviation of the group; off is Dr. GRPO."""
    normalize_components: bool = False
    """Normalise each weighted component of the reward within the group, and their sum over the batch (GDPO)."""
    turn_rewards: Literal["off", "sum", "turn"] = "off"
    """Rewards by turn: `sum` compares their sum instead of the rollout's reward, `turn` gives each turn an advantage. See docs/grpo-algorithms.md."""
    use_leave_one_out_baseline: bool = False
    """Use the mean of the other rollouts as baseline instead of the mean of the whole group."""
    whiten_advantages: bool = False
    """Whiten advantages over the sampled tokens of the batch; with normalize_rewards off this is REINFORCE++ with a baseline."""
    overlong_filtering: bool = False
    """Truncated rollouts keep their reward in the group's statistics but are not trained on."""
    use_dynamic_sampling: bool = False
    """Replace groups with equal rewards by groups of further prompts."""
    dynamic_sampling_max_gen_batches: int = Field(default=10, ge=1)
    """Most rounds of generation per step; then the step trains on the groups that it has."""
    reward_shaping: RewardShapingConfig = Field(default_factory=RewardShapingConfig)
    async_grpo: AsyncConfig = Field(default_factory=AsyncConfig)
    warm_start: WarmStartConfig = Field(default_factory=WarmStartConfig)
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    early_stop: Annotated[EarlyStopConfig, FREE] = Field(default_factory=EarlyStopConfig)
    on_nonfinite: Annotated[Literal["stop", "skip"], FREE] = "stop"
    """At a loss or gradient that is not finite: stop the run, or skip the step."""
    val_period: int = Field(default=0, ge=0)
    """Steps between two validations; 0 is off."""
    val_at_start: bool = False
    """Validate before the first step."""
    val_at_end: bool = False
    """Validate after the last step."""
    max_val_samples: int | None = Field(default=None, ge=1)
    """Validate on the first N tasks. Default: all."""
    seed: Annotated[int, Flag("Training")] = 0
    """Seed for the order of prompts and for sampling."""

    @model_validator(mode="after")
    def _advantage_stands_alone(self) -> Self:
        if self.advantage is not None and (not self.normalize_rewards or self.use_leave_one_out_baseline):
            raise ValueError(
                "advantage replaces normalize_rewards and use_leave_one_out_baseline: set only one of them"
            )
        other = not self.normalize_rewards or self.use_leave_one_out_baseline or self.advantage is not None
        if self.normalize_components and other:
            raise ValueError("normalize_components has its own baseline and divisor: set no other advantage with it")
        if self.turn_rewards != "off" and self.normalize_components:
            raise ValueError(
                "normalize_components takes rewards apart by component, turn_rewards by turn: set only one of them"
            )
        if self.turn_rewards == "turn":
            for name in ("use_leave_one_out_baseline", "whiten_advantages", "advantage"):
                if getattr(self, name):
                    raise ValueError(f"turn_rewards=turn has its own baseline: remove {name}")
        return self

    @field_validator("turn_rewards", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _stops_by_what_is_measured(self) -> Self:
        stop = self.early_stop
        if (stop.patience is not None or stop.target is not None) and not self.val_period:
            raise ValueError("early_stop needs validations: set grpo.val_period")
        return self
