"""Low-rank adapters: adapters are trained, and merged models are saved."""

import copy
import re
from typing import Any

from ..base.errors import ConfigError
from ..base.packages import need
from ..policies.models import is_multimodal
from .config import LoraConfig

ALL_LINEAR = "all-linear"
"""Value of target_modules that means the layers that fit the model."""
EXPERT_LAYERS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Last names of the layers that a layer's experts were made of before they became one tensor."""
ADAPTER = "default"
"""peft's name of the only adapter."""


def peft_config(lora: LoraConfig | None, model: Any) -> Any:
    """The configuration for peft of adapters in this model; None when every weight is trained. Raises MissingExtra without peft."""
    if lora is None:
        return None
    peft = need("peft")
    untie_adapted(model, lora)
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=adapted_layers(model, lora),
        task_type="CAUSAL_LM",
    )


def adapted_layers(model: Any, lora: LoraConfig) -> str | list[str]:
    """`target_modules` for peft: the user's names, or for `all-linear` a pattern of the full names of the layers that fit this model.

    Those are plain linear layers without the output layer. Left out are routers (layers of classes of their own); experts that lie in one tensor, and
    with them other layers of their names, which peft cannot tell apart; and the output projection of a Mamba mixer, whose fused kernel takes its weight
    and would pass the adapter by.
    """
    text = _text_layers(model)
    if lora.target_modules != ALL_LINEAR:
        named = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
        if text is None:
            return named
        found = [name for name in text if _matches(name, named)]
        if not found:
            raise ConfigError(
                f"No layer of the model's text part has a name of policy.lora.target_modules ({named}).",
                "Leave policy.lora.target_modules out for the layers that fit the model.",
            )
        return "|".join(map(re.escape, found))
    linear = need("torch").nn.Linear
    mixers = [module for module in model.modules() if hasattr(module, "A_log") and hasattr(module, "D")]
    others = [model.get_output_embeddings(), *(getattr(mixer, "out_proj", None) for mixer in mixers)]
    stacked = any(parameter.ndim == 3 and ".experts." in name for name, parameter in model.named_parameters())
    names = EXPERT_LAYERS if stacked else ()
    found = [
        name
        for name, layer in model.named_modules()
        if type(layer) is linear
        and (text is None or name in text)
        and name.rpartition(".")[2] not in names
        and not any(layer is one for one in others)
    ]
    # As a pattern, which unlike a list peft does not shorten to endings that other layers share.
    return "|".join(map(re.escape, found))


def _text_layers(model: Any) -> set[str] | None:
    """Names of the layers of a multimodal model's text part, which alone get adapters; None for a text model."""
    if not is_multimodal(vars(model.config)):
        return None
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    return {name for name, module in model.named_modules() if id(module) in inside}


def untie_adapted(model: Any, lora: LoraConfig) -> None:
    """Unties embeddings and output layer that share a weight, when the embeddings get an adapter: an adapter changes one of the two.

    The model is then trained and saved with two weights.

    Raises:
        ConfigError: The output layer would get an adapter. TRL computes log-probabilities from its weight and would not train it.
    """
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    targets = adapted_layers(model, lora)
    if _is_target(model, output, targets):
        raise ConfigError(
            f"policy.lora.target_modules={lora.target_modules} puts an adapter on the output layer, which TRL would not train.",
            "Leave the output layer out.",
        )
    if output is None or output.weight is not embeddings.weight or not _is_target(model, embeddings, targets):
        return
    output.weight = need("torch").nn.Parameter(embeddings.weight.detach().clone())
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def _is_target(model: Any, layer: Any, targets: str | list[str]) -> bool:
    """Whether peft would give this layer of the model an adapter."""
    return any(_matches(name, targets) for name, module in model.named_modules() if module is layer)


def _matches(name: str, targets: str | list[str]) -> bool:
    """Whether peft's target_modules mean the layer of this name."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def adapter_layers(model: Any) -> list[tuple[str, Any]]:
    """The layers with an adapter, by name."""
    return [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "lora_A")]


def merged(model: Any) -> Any:
    """A copy of a model with its adapters merged into the weights; the model itself when it has none.

    Raises:
        ConfigError: A merged weight is not finite.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    try:
        # A copy, because unmerging the adapters would not restore the same bits and training goes on.
        return copy.deepcopy(model).merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ConfigError(f"The adapters cannot be merged: {error}.", "Lower the learning rate.") from error
