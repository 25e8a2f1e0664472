"""Low-rank adapters in the learner's model.

Adapters (Hu et al. 2021, arXiv:2106.09685) are W + (alpha / rank) * B A, of which A and B are trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ....base.errors import ConfigError
from ...config import LoraConfig
from ...lora import ADAPTER, adapted_layers, adapter_layers


def add_adapters(model: Any, lora: LoraConfig, seed: int) -> None:
    """Puts adapters into the model's layers, in place; afterwards only they have a gradient. B is 0, so nothing changes yet.

    Raises ConfigError for names of layers that are not there or not linear.
    """
    import peft

    names = adapted_layers(model, lora)
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
        "Leave policy.lora.target_modules out for the layers that fit the model, or name linear layers.",
    )


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
