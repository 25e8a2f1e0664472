"""Opens the policy a command names, and closes all that was started for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from .chat_options import ChatOptions
from .endpoint import EndpointSettings, OpenAIPolicy
from .models import check_model_folder, model_folder, weights_hash
from .policy import ScriptedPolicy, TokenPolicy
from .types import Policy

ENGINES = ("scripted", "vllm", "torch", "openai:URL[,URL…]")


def check_engine(
    engine: str, model: str | Path | None, tensor_parallel_size: int = 1, data_parallel_size: int = 1
) -> None:
    """Raises ConfigError for an engine there is not, one that lacks its model, or parallel sizes for one that takes none."""
    if engine not in ENGINES and not engine.startswith("openai:http"):
        raise ConfigError(f"There is no engine {engine!r}.", f"Engines are {', '.join(ENGINES)}.")
    if engine in ("vllm", "torch") and model is None:
        raise ConfigError(f"The engine {engine} needs a model.", "Name a folder or a hub name with --model.")
    if engine != "vllm" and (tensor_parallel_size, data_parallel_size) != (1, 1):
        raise ConfigError(f"The engine {engine} takes no parallel sizes.", "Leave them out, or use --engine vllm.")


def model_hash(engine: str, model: str | Path | None) -> str | None:
    """The weights hash of the model an engine is to load; None for an engine that loads none."""
    return (
        weights_hash(check_model_folder(model_folder(model)))
        if engine in ("vllm", "torch") and model is not None
        else None
    )


@contextmanager
def open_policy(
    engine: str,
    model: str | Path | None = None,
    *,
    mistake_rate: float = 0.0,
    seed: int = 0,
    max_turns: int = 6,
    max_model_len: int | None = None,
    chat: ChatOptions | None = None,
    tensor_parallel_size: int = 1,
    data_parallel_size: int = 1,
    endpoint: EndpointSettings | None = None,
) -> Iterator[Policy]:
    """The policy of `scripted`, `vllm`, `torch` or `openai:URL` (several addresses with commas between them), closed at the end.

    Args:
        model: A model folder or a name on the hub, for vllm and torch; for an endpoint the name it serves, None for its first.
        mistake_rate, max_turns: Of the scripted policy.
        seed: Of the scripted policy's mistakes and of the engine.
        max_model_len: None is the model's own limit, at most 4096.
        chat: Template and parser, for vllm and torch; None is the model's own template and the hermes parser.
        tensor_parallel_size, data_parallel_size: As in `open_vllm`; only vllm takes more than one.
        endpoint: How endpoints are asked; None is the defaults. The chat options' template settings go into its extra_body.
    """
    check_engine(engine, model, tensor_parallel_size, data_parallel_size)
    chat = chat or ChatOptions()
    if engine == "scripted":
        yield ScriptedPolicy(mistake_rate, seed, max_turns)
    elif engine.startswith("openai:"):
        name = None if model is None else str(model)
        yield OpenAIPolicy(engine.removeprefix("openai:"), name, _with_template_settings(endpoint, chat))
    elif engine == "torch":
        with _torch_policy(model_folder(str(model)), max_model_len, chat) as policy:
            yield policy
    else:
        sizes = {"tensor_parallel_size": tensor_parallel_size, "data_parallel_size": data_parallel_size}
        with _vllm_policy(model_folder(str(model)), seed, max_model_len, chat, sizes) as policy:
            yield policy


def _with_template_settings(settings: EndpointSettings | None, chat: ChatOptions) -> EndpointSettings:
    """The endpoint's settings with what its template is to be called with, as vLLM takes it."""
    settings = settings or EndpointSettings()
    if not chat.template_settings():
        return settings
    return replace(settings, extra_body={**settings.extra_body, "chat_template_kwargs": chat.template_settings()})


@contextmanager
def _torch_policy(model: Path, max_model_len: int | None, options: ChatOptions) -> Iterator[TokenPolicy]:
    from .chat import ChatFormat
    from .engines.torch_engine import TorchEngine

    chat = ChatFormat.of(check_model_folder(model), options)
    engine = TorchEngine(model, max_model_len or 4096, stop_ids=chat.stop_token_ids)
    try:
        yield TokenPolicy(engine, chat, weights_hash(model))
    finally:
        engine.close()


@contextmanager
def _vllm_policy(
    model: Path, seed: int, max_model_len: int | None, options: ChatOptions, sizes: dict[str, Any]
) -> Iterator[TokenPolicy]:
    from .chat import ChatFormat
    from .engines.cluster import ensure_ray, shutdown_ray
    from .engines.vllm_actor import open_vllm

    chat = ChatFormat.of(check_model_folder(model), options)  # refuses a template before an engine is paid for
    started = ensure_ray()
    try:
        engine = open_vllm(model, max_model_len=max_model_len, seed=seed, stop_ids=chat.stop_token_ids, **sizes)
        try:
            yield TokenPolicy(engine, chat, weights_hash(model))
        finally:
            engine.close()
    finally:
        if started:
            shutdown_ray()
