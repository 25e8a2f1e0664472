"""The learner's model: float32 weights, nothing of its own that is random, activation checkpointing, adapters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ....policies.models import check_text_model
from .adapters import add_adapters
from .settings import LearnerSettings


def open_model(folder: str, settings: LearnerSettings, device: str) -> Any:
    """The trained model of a folder that transformers reads. On device `meta` it has its shapes and no values."""
    policy, model = settings.policy, load(folder, device)
    if policy.lora is not None:
        add_adapters(model, policy.lora, settings.grpo.seed)
    if policy.activation_checkpointing:
        # The newer name where transformers has it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        # Its layers are handed hidden states that need no gradient when all that is trained are adapters in them.
        if policy.lora is not None:
            model.enable_input_require_grads()
    # Otherwise evaluation mode. transformers recomputes activations, and peft drops out, in training mode only.
    set_training(model, policy.activation_checkpointing or (policy.lora is not None and policy.lora.dropout > 0))
    return model


def set_training(model: Any, training: bool) -> None:
    """Training or evaluation mode; routers that are random in training (`jitter`) stay in evaluation mode: they would choose other experts than the engine."""
    model.train(training)
    for module in model.modules() if training else ():
        if any("jitter" in name for name in vars(module)):
            module.eval()


def open_reference(folder: str, device: str) -> Any:
    """A frozen model of that folder: the policy before its first step. float32 as the policy, so that the two agree exactly there."""
    return load(folder, device).eval().requires_grad_(False)


def load(folder: str, device: str) -> Any:
    """A model in float32 that computes the same in either mode: dropout would make the learner disagree with the engine that sampled."""
    from transformers import AutoConfig, AutoModelForCausalLM

    check_text_model(folder)
    config = AutoConfig.from_pretrained(folder)
    dropouts = {
        name: value
        for name, value in vars(config).items()
        if ("drop" in name or name.endswith("_pdrop")) and isinstance(value, float)
    }
    for name in dropouts:
        setattr(config, name, 0.0)
    if device == "meta":
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    for name, value in dropouts.items():  # what is saved has the configuration it was loaded with
        setattr(model.config, name, value)
    model.to(device)  # type: ignore[arg-type]  # its own stubs do not know nn.Module.to
    return model


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode and no gradient for the time of the block."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        set_training(model, before)
