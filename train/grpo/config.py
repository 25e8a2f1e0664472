"""The configuration of a GRPO run. Key names follow NeMo RL where it has the setting."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ...collect.chat_options import ChatOptions
from ..checkpoints import CheckpointingConfig
from ..section import Section
from ..tracking import LoggerConfig

# What the loop relies on.
_OURS = {"model", "max_model_len", "seed", "logprobs_mode", "async_scheduling", "skip_tokenizer_init", "worker_extension_cls"}  # fmt: skip


class AlgorithmConfig(Section):
    """What a step consumes and how rewards become advantages."""

    num_prompts_per_step: int = Field(default=8, ge=1)
    num_generations_per_prompt: int = Field(default=8, ge=1)
    """Rollouts of one prompt: the group whose rewards are compared."""
    max_num_steps: int = Field(default=20, ge=1)
    normalize_rewards: bool = True
    """Divide by the group's standard deviation; off is Dr. GRPO."""
    use_leave_one_out_baseline: bool = False
    """Compare with the mean of the other rollouts instead of the whole group's."""
    overlong_filtering: bool = False
    """Truncated rollouts keep their reward in the group's statistics but are not trained on."""
    val_period: int = Field(default=0, ge=0)
    """Validate after every so many steps; 0 never does."""
    val_at_start: bool = False
    val_at_end: bool = False
    max_val_samples: int | None = Field(default=None, ge=1)
    """The first so many validation tasks; None takes all."""
    seed: int = 0
    """Decides the order of prompts and the sampling."""


class LossConfig(Section):
    """The clipped loss."""

    ratio_clip_min: float = Field(default=0.2, ge=0)
    """The ratio may fall to 1 - this."""
    ratio_clip_max: float = Field(default=0.2, ge=0)
    """The ratio may rise to 1 + this."""
    token_level_loss: bool = True
    """Mean over the step's sampled tokens; off is the mean over rollouts of each one's mean."""
    old_logprobs: Literal["learner", "engine"] = "learner"
    """Whose logprobs the ratio is taken against; see docs/grpo.md."""
    use_importance_sampling_correction: bool = True
    """Weigh tokens by exp(learner - engine); only with old_logprobs `learner`."""
    truncated_importance_sampling_ratio: float = Field(default=2.0, gt=0)
    """Cap of these weights."""


class OptimizerConfig(Section):
    """AdamW."""

    lr: float = Field(default=1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly; it stays constant afterwards."""


class GenerationConfig(Section):
    """How rollouts are sampled. Filters (top_p, top_k) are left out: the learner's logprobs know nothing of them."""

    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=256, ge=1)
    """A model call."""
    sync_tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference of a logprob between engine and learner after a weight push (float32); more stops the run."""
    concurrency: int | None = Field(default=None, ge=1)
    """Rollouts in flight; None is all of a step."""
    time_limit_s: float = Field(default=600, gt=0)
    """Wall clock of one rollout; past it it counts as failed."""
    vllm: dict[str, Any] = Field(default_factory=dict)
    """Further engine arguments, by vLLM's names (`dtype`, `gpu_memory_utilization`, `tensor_parallel_size`, `data_parallel_size`, …)."""

    @field_validator("vllm")
    @classmethod
    def _free(cls, options: dict[str, Any]) -> dict[str, Any]:
        settled = sorted(_OURS & set(options))
        if settled:
            raise ValueError(f"{settled[0]} is not free, it follows from the other settings")
        return options


class PolicyConfig(Section):
    """The model and how it is trained."""

    model_name: str
    """A checkpoint's id, a run's id, a model folder or a name on the hub."""
    max_total_sequence_length: int = Field(default=1024, ge=2)
    """Prompt and everything after it, in tokens."""
    train_mb_tokens: int = Field(default=8192, ge=1)
    """Padded tokens a micro-batch; lower it when memory runs out. The gradient does not depend on it."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner runs; auto is a GPU where there is one."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of the learner."""
    chat: ChatOptions = Field(default_factory=ChatOptions)
    """Chat template, thinking and tool parser where they are not the model's own; see docs/models.md."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)


class EnvironmentConfig(Section):
    """Where the tasks are played."""

    name: str | None = None
    """What `--env` of collect takes (a file of one's own, …); None is the name of the dataset's tasks."""
    tables: Path | None = None
    """Folder of the environment's tables, where it needs one."""
    tasks: Path | None = None
    """File with its tasks, where it needs one."""
    seed: int = 0
    max_turns: int = Field(default=6, ge=1)
    """Model calls an episode."""


class GrpoConfig(Section):
    """Everything a GRPO run depends on."""

    run: str | None = None
    """Name of the run; a run of that name goes on where its stored batches end."""
    dataset: str
    """The prompt set: NAME, or NAME@VERSION."""
    policy: PolicyConfig
    grpo: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    loss_fn: LossConfig = Field(default_factory=LossConfig)
    environment: EnvironmentConfig = Field(default_factory=EnvironmentConfig)
    checkpointing: CheckpointingConfig = Field(default_factory=CheckpointingConfig)
    logger: LoggerConfig = Field(default_factory=LoggerConfig)
