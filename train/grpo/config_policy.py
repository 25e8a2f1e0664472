"""Settings of the section `policy`: the model, how it is trained, and how it is sampled from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...base.config import FREE, Flag
from ...policies.config import ChatOptions, GenerationSettings
from ..config import OptimizerConfig, TrainedPolicy


class GrpoOptimizer(OptimizerConfig):
    """AdamW and its learning rate, which stays constant after the warm-up unless `scheduler` is set."""

    decay_steps: int | None = Field(default=None, ge=1)
    """Steps after the warm-up over which the learning rate falls to min_lr; `linear` and `cosine` need it."""
    min_lr: float = Field(default=0.0, ge=0)
    """Learning rate after the decay."""

    @model_validator(mode="after")
    def _falls_somewhere(self) -> Self:
        if self.scheduler != "constant" and self.decay_steps is None:
            raise ValueError(
                f"scheduler={self.scheduler} needs decay_steps, the steps after the warm-up over which the rate falls"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr:g} is above lr={self.lr:g}")
        return self


class GrpoGeneration(GenerationSettings):
    """How rollouts are sampled. There are no filters (top_p, top_k), because the learner's logprobs do not know them."""

    temperature: Annotated[float, Flag("Sampling", metavar="T")] = Field(default=1.0, gt=0)
    """Sampling temperature."""
    weight_sync: Annotated[Literal["auto", "file", "object_store", "cuda_ipc", "nccl"], FREE] = "auto"
    """How weights are sent to the engine; `auto` is what fits the machine. See docs/grpo.md."""
    adapters: Annotated[Literal["auto", "merged"], FREE] = "auto"
    """What a push of policy.lora is of: `auto` the adapters alone where the engine (vLLM, weight_sync=file) takes them, else merged weights."""
    sync_tolerance: Annotated[float, FREE] = Field(default=1e-3, gt=0)
    """Largest difference of a logprob between engine and learner after a weight push (in low precision, the mean difference); a larger one stops the run."""
    concurrency: Annotated[int | None, FREE] = Field(default=None, ge=1)
    """Rollouts in flight. Default: no limit."""
    time_limit_s: Annotated[float, FREE] = Field(default=600, gt=0)
    """Seconds per rollout; a rollout that takes longer gets the status timeout."""
    max_restarts: Annotated[int, FREE] = Field(default=3, ge=0)
    """Number of times per run that a failed engine is restarted; its pending requests are sent again."""
    sleep_while_training: Annotated[bool, FREE] = False
    """On a shared GPU: the engine releases its memory to the learner during the step."""


class PolicyConfig(TrainedPolicy):
    """The model, how it is trained, and how it is sampled from."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the learner's computation; its weights and moments are float32 in either case."""
    train_mb_tokens: Annotated[int, FREE] = Field(default=8192, ge=1)
    """Padded tokens per micro-batch; lower it when memory runs out. The gradient does not depend on it."""
    logprob_chunk_tokens: Annotated[int | None, FREE] = Field(default=None, ge=1)
    """Positions whose logits are in memory at once. Default: 512 MiB of logits."""
    activation_checkpointing: Annotated[bool, FREE] = False
    shared_prefix: bool = True
    """Compute the prompt of a group once for all its rollouts, where the model's attention allows it."""
    router_loss: float | None = Field(default=None, ge=0)
    """Coefficient of the loss that balances the routers of a mixture of experts. Default: the model's own where its configuration sets output_router_logits, else 0."""
    router_replay: bool = False
    """In a mixture of experts, route the learner's tokens to the experts that the engine (vLLM) chose, which are stored with the rollouts. See docs/learner.md."""
    threads: Annotated[int, FREE] = Field(default=1, ge=1)
    """CPU threads per learner rank."""
    chat: ChatOptions = Field(default_factory=ChatOptions)
    """Chat template, thinking and tool parser, where they differ from the model's own. See docs/models.md."""
    optimizer: GrpoOptimizer = Field(default_factory=GrpoOptimizer)
    generation: GrpoGeneration = Field(default_factory=GrpoGeneration)

    @model_validator(mode="after")
    def _replays_once(self) -> Self:
        if self.router_replay and self.activation_checkpointing:
            raise ValueError(
                "router_replay does not reach activations that are computed again: set activation_checkpointing=false"
            )
        return self
