"""Low-rank adapters: adapters are trained, and merged models are saved."""

import copy
from typing import Any

from ..base.errors import ConfigError
from ..base.packages import need
from .config import LoraConfig


def peft_config(lora: LoraConfig | None) -> Any:
    """The configuration for peft; None when every weight is trained. Raises MissingExtra without peft."""
    if lora is None:
        return None
    peft = need("peft")
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


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
