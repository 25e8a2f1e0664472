"""Where vLLM reads a configuration otherwise than transformers, which learners and the torch engine use: what it is given instead."""

from typing import Any

from ..models import model_config

_WINDOW_AND_ONE = ("cohere2",)
"""Model types of whose attention window vLLM takes one token more."""


def config_overrides(folder: str) -> dict[str, Any]:
    """Values for vLLM's `hf_overrides`, with which it computes what transformers does; empty where nothing differs."""
    config = model_config(folder)
    window = config.get("sliding_window")
    if config.get("model_type") in _WINDOW_AND_ONE and isinstance(window, int):
        return {"sliding_window": window - 1}
    return {}
