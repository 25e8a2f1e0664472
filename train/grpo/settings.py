"""From the configuration to what each part works with."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...base.errors import ConfigError
from ...policies.models import need
from ...policies.types import Sampling
from ...store.task import Task
from .algorithm.shaping import ShapingOptions
from .config import GrpoConfig
from .learner.settings import LearnerSettings, LoraSettings, LossSettings
from .plan import PlanOptions
from .sync.transfer import engine_arguments

MAY_CHANGE = (
    "run",
    "policy.model_name",  # its weights may not
    "policy.threads",
    "policy.activation_checkpointing",  # this and the next by rounding at most: what ran out of memory can go on
    "policy.logprob_chunk_tokens",
    "policy.train_mb_tokens",  # a stored plan has its micro-batches in it
    "policy.generation.concurrency",
    "policy.generation.time_limit_s",
    "policy.generation.max_restarts",
    "policy.generation.weight_sync",
    "policy.generation.sync_tolerance",
    "policy.generation.sleep_while_training",
    "policy.generation.vllm.gpu_memory_utilization",
    "grpo.max_num_steps",
    "grpo.early_stop",
    "grpo.on_nonfinite",  # where every loss is finite, it changes nothing
    "cluster.num_nodes",
    "cluster.wait_s",
    "cluster.max_restarts",
    "cluster.step_timeout_s",
    "cluster.collective_timeout_s",
    "ray",
    "checkpointing",
    "logger",
)
"""Settings that may differ when a run goes on: none of them changes what it learns."""

SHARED_GPU_MEMORY = 0.4
"""Of a GPU that engine and learner share, vLLM's part (its `gpu_memory_utilization`): the learner has weights, gradients and two moments."""


def plan_settings(config: GrpoConfig, model_hash: str, chosen: Sequence[Task]) -> dict[str, Any]:
    """What a step depends on, as it stands in its plan."""
    return {
        "algorithm": "grpo",
        "model_hash": model_hash,
        "plan": asdict(plan_options(config)),
        "learner": learner_settings(config).to_dict(),
        "task_ids": [task.task_id for task in chosen],
    }


def plan_options(config: GrpoConfig) -> PlanOptions:
    """The settings that a plan is made by."""
    grpo, loss = config.grpo, loss_settings(config)
    return PlanOptions(
        normalize=grpo.normalize_rewards,
        leave_one_out=grpo.use_leave_one_out_baseline,
        whiten=grpo.whiten_advantages,
        overlong_filtering=grpo.overlong_filtering,
        dynamic_sampling=grpo.use_dynamic_sampling,
        keep_flat=loss.entropy_coef > 0 or (loss.kl_coef > 0 and not loss.kl_in_reward),
        shaping=shaping_options(config),
        token_budget=config.policy.train_mb_tokens,
        keep_groups=config.policy.shared_prefix,
    )


def shaping_options(config: GrpoConfig) -> ShapingOptions:
    """What is taken off rewards before they are compared."""
    shaping, loss = config.grpo.reward_shaping, loss_settings(config)
    return ShapingOptions(
        overlong_buffer=shaping.overlong_buffer_length,
        overlong_penalty=shaping.overlong_buffer_penalty,
        max_length=shaping.max_response_length or config.policy.max_total_sequence_length,
        stop_properly=shaping.stop_properly_penalty_coef,
        invalid_tool_call=shaping.invalid_tool_call_penalty,
        kl_coef=loss.kl_coef if loss.kl_in_reward else 0.0,
    )


def learner_settings(config: GrpoConfig) -> LearnerSettings:
    """The settings that the learner steps by."""
    policy, lora = config.policy, config.policy.lora
    return LearnerSettings(
        **policy.optimizer.model_dump(),
        max_grad_norm=policy.max_grad_norm,
        n_updates=config.grpo.num_updates_per_batch,
        on_nonfinite=config.grpo.on_nonfinite,
        loss=loss_settings(config),
        temperature=policy.generation.temperature,
        precision=policy.precision,
        shared_prefix=policy.shared_prefix,
        chunk_tokens=policy.logprob_chunk_tokens,
        lora=None if lora is None else LoraSettings(lora.rank, lora.alpha, lora.dropout, _tuple(lora.target_modules)),
        seed=config.grpo.seed,
        device=learner_device(policy.device),
        threads=policy.threads,
        activation_checkpointing=policy.activation_checkpointing,
    )


def loss_settings(config: GrpoConfig) -> LossSettings:
    """The policy loss as the learner computes it."""
    loss = config.loss_fn
    mean = "token_mean" if loss.token_level_loss else "sequence_mean"
    return LossSettings(
        objective=loss.objective,
        clip_low=loss.ratio_clip_min,
        clip_high=loss.ratio_clip_max,
        dual_clip=loss.ratio_clip_c,
        sequence_ratio=loss.sequence_level_importance_ratios,
        aggregation=mean if loss.fixed_length is None else "fixed_length",
        fixed_length=loss.fixed_length,
        old_logprobs=loss.old_logprobs,
        correction=loss.truncated_importance_sampling_type if loss.use_importance_sampling_correction else "none",
        correction_min=loss.truncated_importance_sampling_ratio_min,
        correction_max=loss.truncated_importance_sampling_ratio,
        kl_coef=loss.reference_policy_kl_penalty,
        kl_type="k1" if loss.use_kl_in_reward else loss.reference_policy_kl_type,
        kl_unbiased=loss.use_bias_correction_kl,
        kl_in_reward=loss.use_kl_in_reward,
        entropy_coef=loss.entropy_bonus,
    )


def _tuple(names: str | list[str]) -> str | tuple[str, ...]:
    return names if isinstance(names, str) else tuple(names)


def learner_device(device: str) -> str:
    """`auto` as what it means on this machine."""
    if device != "auto":
        return device
    return "cuda" if need("torch").cuda.is_available() else "cpu"


def gpu_shares(gpus: float, device: str, engines: int = 1, ranks: int = 1, split: int = 1) -> tuple[float, float]:
    """GPUs of each (engine, learner rank) of a cluster that has `gpus`: whole ones where there are enough, else half of one each; a rank's 0 on a CPU.

    Args:
        split: GPUs that an engine is split over; then it has them to itself.

    Raises ConfigError for a learner on GPUs that the cluster does not have.
    """
    if not device.startswith("cuda"):
        return (min(1, gpus / engines) if split == 1 else split * (gpus > 0)), 0
    apart = engines * split + ranks
    least = apart if split > 1 else max(engines, ranks)
    if gpus < least:
        has = f"{gpus:g}" if gpus else "none"
        of = f"{engines} engines" + (f" over {split} GPUs each" if split > 1 else "")
        raise ConfigError(
            f"There is no GPU for the learner: {of} and {ranks} learner ranks take {least} at least, the Ray cluster has {has}.",
            "Set policy.device=cpu, ask for fewer (data_parallel_size, tensor_parallel_size, cluster.learner_ranks), or look with `rollhouse doctor` why Ray sees no more.",
        )
    return (split, 1) if gpus >= apart else (0.5, 0.5)


def engine_sizes(config: GrpoConfig) -> tuple[int, int]:
    """How many engines there are, and over how many GPUs each is split."""
    sizes = config.policy.generation.vllm
    return sizes.get("data_parallel_size", 1), sizes.get("tensor_parallel_size", 1)


def engine_options(config: GrpoConfig, gpus: float) -> dict[str, Any]:
    """What `open_vllm` is called with on a cluster that has `gpus`, besides the model."""
    generation = config.policy.generation
    device = learner_device(config.policy.device)
    engines, split = engine_sizes(config)
    share, _ = gpu_shares(gpus, device, engines, config.cluster.learner_ranks, split)
    shared = {"gpu_memory_utilization": SHARED_GPU_MEMORY} if 0 < share < 1 else {}
    return {
        "max_model_len": config.policy.max_total_sequence_length,
        "seed": config.grpo.seed,
        "num_gpus": share,
        "request_timeout_s": max(600, generation.time_limit_s),
        **({"enable_sleep_mode": True} if generation.sleep_while_training else {}),
        **shared,
        **engine_arguments(generation.weight_sync),
        **generation.vllm,
    }


def rollouts_in_flight(config: GrpoConfig) -> int:
    """How many rollouts are sampled at once."""
    grpo = config.grpo
    return config.policy.generation.concurrency or grpo.num_prompts_per_step * grpo.num_generations_per_prompt


def sampling(config: GrpoConfig, step: int) -> Sampling:
    """How the rollouts of a step are sampled."""
    generation = config.policy.generation
    return Sampling(
        generation.temperature, max_tokens=generation.max_new_tokens, seed=config.grpo.seed * 100_003 + step
    )


def playing(config: GrpoConfig) -> dict[str, Any]:
    """Options of `collect` that training and validation share."""
    return {
        "max_turns": config.environment.max_turns,
        "concurrency": rollouts_in_flight(config),
        "time_limit_s": config.policy.generation.time_limit_s,
    }
