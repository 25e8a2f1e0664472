"""Settings of a learner and of its loss, from the few that a test sets."""

from typing import Any

from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.config_algorithm import AlgorithmConfig
from rollhouse.train.grpo.config_loss import LossConfig
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.settings import LearnerSettings


def loss_config(base: LossConfig | None = None, **changes: Any) -> LossConfig:
    """The loss settings with some changed; `base` None is the defaults."""
    return LossConfig.model_validate(({} if base is None else base.model_dump()) | changes)


def learner_config(base: LearnerSettings | None = None, **changes: Any) -> LearnerSettings:
    """A learner's settings with some changed, each by the name that it has in the section it is found in; `loss_fn` and `device` as they are."""
    base = base or LearnerSettings(PolicyConfig(model_name="unused"))
    policy, grpo = base.policy.model_dump(), base.grpo.model_dump()
    loss, device = changes.pop("loss_fn", base.loss_fn), changes.pop("device", base.device)
    for name, value in changes.items():
        sections = [s for s in (policy, policy["optimizer"], policy["generation"], grpo) if name in s]
        assert sections, f"no section has {name}"
        sections[0][name] = value.model_dump() if hasattr(value, "model_dump") else value
    return LearnerSettings(PolicyConfig.model_validate(policy), AlgorithmConfig.model_validate(grpo), loss, device)


def grpo_config(base: GrpoConfig | None = None, **changes: Any) -> GrpoConfig:
    """The settings of a run with some changed, as `section__key=value`."""
    values = {"dataset": "unused", "policy": {"model_name": "unused"}} if base is None else base.model_dump()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        inside = values.setdefault(section, {}) if name else values
        inside[name or section] = value
    return GrpoConfig.model_validate(values)
