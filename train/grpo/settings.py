"""From the configuration to what each part works with."""

from collections.abc import Sequence
from typing import Any

from ...collect.models import need
from ...collect.types import Sampling, Task
from .config import GrpoConfig
from .learner import LearnerSettings
from .plan import PlanOptions


def plan_settings(config: GrpoConfig, model_hash: str, chosen: Sequence[Task]) -> dict[str, Any]:
    """What a step depends on, as it stands in its plan."""
    learner = {name: list(v) if isinstance(v, tuple) else v for name, v in learner_settings(config).to_dict().items()}
    return {
        "algorithm": "grpo",
        "model_hash": model_hash,
        "normalize_rewards": config.grpo.normalize_rewards,
        "use_leave_one_out_baseline": config.grpo.use_leave_one_out_baseline,
        "overlong_filtering": config.grpo.overlong_filtering,
        "learner": learner,
        "task_ids": [task.task_id for task in chosen],
    }


def plan_options(config: GrpoConfig) -> PlanOptions:
    """The settings that a plan is made by."""
    grpo = config.grpo
    return PlanOptions(
        grpo.normalize_rewards,
        grpo.use_leave_one_out_baseline,
        grpo.overlong_filtering,
        config.policy.train_mb_tokens,
    )


def learner_settings(config: GrpoConfig) -> LearnerSettings:
    """The settings that the learner steps by."""
    policy, loss = config.policy, config.loss_fn
    return LearnerSettings(
        **policy.optimizer.model_dump(),
        max_grad_norm=policy.max_grad_norm,
        clip_low=loss.ratio_clip_min,
        clip_high=loss.ratio_clip_max,
        token_level=loss.token_level_loss,
        old_logprobs=loss.old_logprobs,
        importance_cap=loss.truncated_importance_sampling_ratio if loss.use_importance_sampling_correction else None,
        temperature=policy.generation.temperature,
        device=learner_device(policy.device),
        threads=policy.threads,
    )


def learner_device(device: str) -> str:
    """`auto` as what it means on this machine."""
    if device != "auto":
        return device
    return "cuda" if need("torch").cuda.is_available() else "cpu"


def sampling(config: GrpoConfig, step: int) -> Sampling:
    """How the rollouts of a step are sampled."""
    generation = config.policy.generation
    return Sampling(
        generation.temperature, max_tokens=generation.max_new_tokens, seed=config.grpo.seed * 100_003 + step
    )
