"""The learner's model: opening it (float32 weights, no dropout of its own, activation checkpointing) and its low-rank adapters.

Adapters (Hu et al. 2021, arXiv:2106.09685) are W + (alpha / rank) * B A, of which A and B are trained.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ....base.errors import ConfigError
from ...config import LoraConfig
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
    model.train(policy.activation_checkpointing or (policy.lora is not None and policy.lora.dropout > 0))
    return model


def open_reference(folder: str, device: str) -> Any:
    """A frozen model of that folder: the policy before its first step. float32 as the policy, so that the two agree exactly there."""
    return load(folder, device).eval().requires_grad_(False)


def load(folder: str, device: str) -> Any:
    """A model in float32 whose layers drop nothing out in either mode: dropout would make the learner disagree with the engine that sampled."""
    from transformers import AutoConfig, AutoModelForCausalLM

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
        model.train(before)


ADAPTER = "default"


def add_adapters(model: Any, lora: LoraConfig, seed: int) -> None:
    """Puts adapters into the model's layers, in place; afterwards only they have a gradient. B is 0, so nothing changes yet.

    Raises ConfigError for names of layers that are not there or not linear.
    """
    import peft

    names = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = peft.LoraConfig(r=lora.rank, lora_alpha=int(lora.alpha), lora_dropout=lora.dropout, target_modules=names)
    config.lora_alpha = lora.alpha  # type: ignore[assignment]  # a float is as good
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(config, model)
        except ValueError as error:
            raise _unfit(str(error)) from error
    for name, layer in adapter_layers(model):
        if not isinstance(layer, peft.tuners.lora.Linear):
            raise _unfit(f"{name} is a {type(layer.get_base_layer()).__name__}, not a linear layer")


def _unfit(why: str) -> ConfigError:
    return ConfigError(
        f"The adapters do not fit the model: {why}",
        "Set policy.lora.target_modules=all-linear, or to names of its linear layers.",
    )


def adapter_layers(model: Any) -> list[tuple[str, Any]]:
    """The layers with an adapter, by name."""
    return [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "lora_A")]


def merged_weights(model: Any, whole: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """All weights with the adapters added, under the names they have without; a tied weight is there once. The model is left as it is.

    Args:
        whole: Gives a parameter in one piece; on several ranks a collective call.
    """
    layers = dict(adapter_layers(model))
    found = {}
    # named_parameters lists a shared tensor under its first name only, which is how engines expect tied embeddings.
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".base_layer.")
        if ".lora_A." in name or ".lora_B." in name:
            continue
        weight = whole(parameter.detach())
        if kind == "weight":
            layer = layers[owner]
            a, b = (whole(part[ADAPTER].weight.detach()) for part in (layer.lora_A, layer.lora_B))
            delta = (b @ a).T if layer.fan_in_fan_out else b @ a
            weight = weight + delta * layer.scaling[ADAPTER]
        found[f"{owner}.{kind}" if owner else name] = weight
    return found


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """The model as it was before any training, for the time of the block."""
    layers = [layer for _, layer in adapter_layers(model)]
    before = [layer.scaling[ADAPTER] for layer in layers]
    for layer in layers:
        layer.scaling[ADAPTER] = 0.0
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[ADAPTER] = scaling
