"""The sections of a configuration that an optimizer step depends on, besides the weights and the batch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ....base.plugins import parse_plugin
from ..config_algorithm import AlgorithmConfig
from ..config_loss import LossConfig
from ..config_policy import PolicyConfig

if TYPE_CHECKING:
    from ..config import GrpoConfig


@dataclass(frozen=True)
class LearnerSettings:
    """How the learner steps.

    Attributes:
        device: `cpu` or `cuda`, in place of policy.device, which can be `auto`.
    """

    policy: PolicyConfig
    grpo: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    loss_fn: LossConfig = field(default_factory=LossConfig)
    device: str = "cpu"


def learner_settings(config: "GrpoConfig") -> LearnerSettings:
    """The learner's part of a configuration, for this machine: with the device that `auto` means and the absolute path of a loss of one's own."""
    loss = config.loss_fn
    parsed = parse_plugin(loss.custom) if loss.custom is not None else None
    if parsed is not None and parsed.file is not None:  # a rank may work in another folder
        loss = loss.model_copy(update={"custom": f"{parsed.file.resolve()}:{parsed.name}"})
    return LearnerSettings(config.policy, config.grpo, loss, learner_device(config.policy.device))


def learner_device(device: str) -> str:
    """`cpu` or `cuda` for policy.device; `auto` is a GPU where there is one."""
    if device != "auto":
        return device
    from ....base.packages import need

    return "cuda" if need("torch").cuda.is_available() else "cpu"
