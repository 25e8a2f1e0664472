"""Low-rank adapters: what is trained is small, what is saved is a whole model again."""

import copy
from typing import Any

from pydantic import Field

from ..base.config import Section
from ..base.errors import ConfigError
from ..policies.models import need


class LoraConfig(Section):
    """Adapters in place of training every weight (Hu et al. 2021)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get one; `all-linear` is every linear layer but the output's."""


def peft_config(lora: LoraConfig | None) -> Any:
    """peft's configuration, None for training every weight. Raises MissingExtra without peft."""
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
    """A model with its adapters added into its weights; the model itself when it has none. Costs a copy of the model.

    Raises ConfigError when a weight is not finite after it.
    """
    if not hasattr(model, "merge_and_unload"):
        return model
    try:
        # On a copy: taking the adapters out again would not give back the same bits, and training goes on.
        return copy.deepcopy(model).merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ConfigError(f"The adapters cannot be merged: {error}.", "Lower the learning rate.") from error
