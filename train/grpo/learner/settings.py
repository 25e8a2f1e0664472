"""What an optimizer step depends on besides the weights and the batch. Needs nothing but Python."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LossSettings:
    """The policy loss; loss.py has the formulas.

    Attributes:
        objective: `clip` or `cispo`.
        clip_low, clip_high: The ratio is clipped to [1 - clip_low, 1 + clip_high].
        dual_clip: Where the advantage is negative the loss is at most -dual_clip * advantage; None is off.
        sequence_ratio: One ratio a sequence, the geometric mean of its tokens' (GSPO).
        aggregation: `token_mean`, `sequence_mean`, or `fixed_length`.
        fixed_length: Divisor of `fixed_length`, in tokens a sequence.
        old_logprobs: `learner` takes the ratio against the learner before the batch's first update (at which it is exactly 1);
            `engine` takes it against the engine's logprobs from sampling time.
        correction: Weight exp(learner - engine), for old_logprobs `learner` only: `none`, `tis`, `icepop`, `seq-mask-tis`.
        correction_min, correction_max: Its bounds.
        kl_coef: Weight of the KL to the reference; 0 loads none.
        kl_type: `k1`, `k2` or `k3`.
        kl_unbiased: The KL in the loss is weighed by the ratio, which makes its expected gradient that of the KL.
        kl_in_reward: The KL is taken off rewards when a batch is planned, not added to the loss.
        entropy_coef: Weight of the mean entropy, taken off the loss.
    """

    objective: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    sequence_ratio: bool = False
    aggregation: str = "token_mean"
    fixed_length: int | None = None
    old_logprobs: str = "learner"
    correction: str = "tis"
    correction_min: float = 0.0
    correction_max: float = 2.0
    kl_coef: float = 0.0
    kl_type: str = "k3"
    kl_unbiased: bool = True
    kl_in_reward: bool = False
    entropy_coef: float = 0.0


@dataclass(frozen=True)
class LoraSettings:
    """Adapters in place of every weight; as LoraConfig."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True)
class LearnerSettings:
    """How the learner steps.

    Attributes:
        lr_schedule: `constant`, `linear` or `cosine`, over `decay_steps` after `warmup_steps`, down to `min_lr`.
        max_grad_norm: The gradient is scaled down to this norm.
        n_updates: Optimizer updates on each batch.
        on_nonfinite: `stop` raises; `skip` leaves the weights as they were and says so in the metrics.
        loss: The policy loss.
        temperature: What the rollouts were sampled with.
        precision: `float32` or `bfloat16`, what is computed in; weights, gradients' sums and moments are float32.
        shared_prefix: Prompts of a group are computed once, where the model's attention allows.
        chunk_tokens: Positions whose logits are held at once; None follows the vocabulary.
        seed: Of what is random in a step (adapters' first weights, dropout in them).
        device, threads, activation_checkpointing: Where and how it runs; the result depends on them by rounding at most.
    """

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    lr_schedule: str = "constant"
    decay_steps: int | None = None
    min_lr: float = 0.0
    max_grad_norm: float = 1.0
    n_updates: int = 1
    on_nonfinite: str = "stop"
    loss: LossSettings = field(default_factory=LossSettings)
    temperature: float = 1.0
    precision: str = "float32"
    shared_prefix: bool = True
    chunk_tokens: int | None = None
    lora: LoraSettings | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    activation_checkpointing: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For the plan: what the step depends on, without where it ran. Holds JSON's types only."""
        left_out = ("device", "threads", "activation_checkpointing", "chunk_tokens", "on_nonfinite")
        return {name: _plain(value) for name, value in asdict(self).items() if name not in left_out}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
