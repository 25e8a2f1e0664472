"""Policies for Python programs: `rollhouse.vllm("./model")` and its like give the section `policy` of a configuration."""

import os
from importlib.util import find_spec
from typing import Any

from ..base.recipes import resolve
from ..base.references import id_of
from .config import SamplingPolicy


def scripted(mistake_rate: float = 0.0, **settings: Any) -> SamplingPolicy:
    """The policy that plays each task's ground truth; with probability `mistake_rate` it stops before the last call."""
    return _policy("scripted", None, mistake_rate=mistake_rate, **settings)


def vllm(model: Any, **settings: Any) -> SamplingPolicy:
    """A model in a vLLM engine, in a Ray actor.

    Args:
        model: A checkpoint's id, a run, a model folder or a name on the hub.
        settings: Further settings of the section `policy`, as `max_total_sequence_length=8192` or `chat={"enable_thinking": False}`.
    """
    return _policy("vllm", model, **settings)


def torch(model: Any, **settings: Any) -> SamplingPolicy:
    """A model in plain transformers, for machines without vLLM. Arguments as of `vllm`."""
    return _policy("torch", model, **settings)


def endpoint(url: str, model: str | None = None, **settings: Any) -> SamplingPolicy:
    """An OpenAI-compatible endpoint, or several separated by commas. The key is read from OPENAI_API_KEY.

    Args:
        model: The name of the model that the endpoint serves; None takes the only one.
    """
    return _policy(f"openai:{url}", model, **settings)


def _policy(engine: str, model: Any, **settings: Any) -> SamplingPolicy:
    name = None if model is None else str(model) if isinstance(model, os.PathLike) else id_of(model)
    return resolve(SamplingPolicy, options={"engine": engine, "model_name": name, **settings})


def of_model(policy: Any) -> SamplingPolicy:
    """A model's policy: vLLM where it is installed, transformers elsewhere."""
    return vllm(policy) if find_spec("vllm") else torch(policy)
