"""Settings of the section `policy`: the model, how it is trained, and how it is sampled from."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ...base.config import Section
from ...policies.config import ChatOptions
from ..config import LoraConfig

# What the loop relies on.
_OURS = {"model", "max_model_len", "seed", "logprobs_mode", "async_scheduling", "skip_tokenizer_init", "worker_extension_cls"}  # fmt: skip


class OptimizerConfig(Section):
    """AdamW and its learning rate."""

    lr: float = Field(default=1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How it falls afterwards."""
    decay_steps: int | None = Field(default=None, ge=1)
    """Steps after the warm-up over which it falls to min_lr; `linear` and `cosine` need it."""
    min_lr: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _falls_somewhere(self) -> "OptimizerConfig":
        if self.lr_schedule != "constant" and self.decay_steps is None:
            raise ValueError(
                f"lr_schedule={self.lr_schedule} needs decay_steps, the steps after the warm-up over which it falls"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr={self.min_lr:g} is above lr={self.lr:g}")
        return self


class GenerationConfig(Section):
    """How rollouts are sampled. Filters (top_p, top_k) are left out: the learner's logprobs know nothing of them."""

    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=256, ge=1)
    """A model call."""
    weight_sync: Literal["auto", "file", "object_store", "cuda_ipc", "nccl"] = "auto"
    """How weights reach the engine; auto is what fits the machine. See docs/grpo.md."""
    sync_tolerance: float = Field(default=1e-3, gt=0)
    """Largest difference of a logprob between engine and learner after a weight push, in low precision the mean one; more stops the run."""
    concurrency: int | None = Field(default=None, ge=1)
    """Rollouts in flight; None is all that may be."""
    time_limit_s: float = Field(default=600, gt=0)
    """Wall clock of one rollout; past it it counts as failed."""
    max_restarts: int = Field(default=3, ge=0)
    """An engine that dies is started again so often in a run, and what it was asked is asked again."""
    sleep_while_training: bool = False
    """On a shared GPU: the engine gives its memory to the learner for the time of the step."""
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
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the learner computes in; its weights and moments are float32 either way."""
    train_mb_tokens: int = Field(default=8192, ge=1)
    """Padded tokens a micro-batch; lower it when memory runs out. The gradient does not depend on it."""
    logprob_chunk_tokens: int | None = Field(default=None, ge=1)
    """Positions whose logits are held at once; None follows the vocabulary (512 MiB of them)."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more time for much less memory."""
    shared_prefix: bool = True
    """Compute the prompt of a group once for all its rollouts, where the model's attention allows."""
    lora: LoraConfig | None = None
    """Train adapters instead of every weight; engine and checkpoints get them merged."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the learner runs; auto is a GPU where there is one."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of a learner rank."""
    chat: ChatOptions = Field(default_factory=ChatOptions)
    """Chat template, thinking and tool parser where they are not the model's own; see docs/models.md."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
