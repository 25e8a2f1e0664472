"""Low-rank adapters in the learner's model (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) * B A, of which A and B are trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ....base.errors import ConfigError
from .settings import LoraSettings

ADAPTER = "default"


def add_adapters(model: Any, lora: LoraSettings, seed: int) -> None:
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
