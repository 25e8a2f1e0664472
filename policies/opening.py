"""Opens the policy of an engine by name, and closes all that was started for it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..base.plugins import FORMS, load_plugin, parse_plugin, plugin_hash
from .chat_options import ChatOptions
from .endpoint import EndpointSettings, OpenAIPolicy
from .models import check_model_folder, model_folder, weights_hash
from .scripted import ScriptedPolicy
from .token_policy import TokenPolicy
from .types import Policy

ENGINES = ("scripted", "vllm", "torch", "openai:URL[,URL…]")
_LOADING = ("vllm", "torch")


def check_engine(
    engine: str, model: str | Path | None, tensor_parallel_size: int = 1, data_parallel_size: int = 1
) -> None:
    """Raises ConfigError for an unknown engine, one that lacks its model, or parallel sizes for an engine without them."""
    if engine not in ENGINES and not _is_endpoint(engine) and not _is_plugin(engine):
        raise ConfigError(f"There is no engine {engine!r}.", f"Engines are {', '.join(ENGINES)}, or a class: {FORMS}.")
    if loads_model(engine) and model is None:
        raise ConfigError(f"The engine {engine} needs a model.", "Name a folder or a hub name with --model.")
    if engine != "vllm" and (tensor_parallel_size, data_parallel_size) != (1, 1):
        raise ConfigError(f"The engine {engine} has no parallel sizes.", "Leave them out, or use --engine vllm.")


def loads_model(engine: str) -> bool:
    """Whether the engine loads a model folder. Raises ConfigError for a plug-in that cannot be loaded or is not an engine."""
    return engine in _LOADING or (_is_plugin(engine) and hasattr(_plugin_class(engine), "generate"))


def engine_hash(engine: str) -> str | None:
    """SHA-256 (64 hex digits) of the file of a user's engine, for a run's configuration; None for the built-in engines."""
    return plugin_hash(engine) if _is_plugin(engine) else None


def model_hash(engine: str, model: str | Path | None) -> str | None:
    """The weights hash of the model that an engine loads; None for an engine that loads none."""
    if model is None or not loads_model(engine):
        return None
    return weights_hash(check_model_folder(model_folder(model)))


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
    """The policy of an engine, closed at the end.

    Args:
        engine: `scripted`, `vllm`, `torch`, `openai:URL` (several URLs with commas between them), or a user's class, see docs/models.md.
        model: A model folder or a hub name, for engines that load one; for an endpoint the name it serves, None for its first.
        mistake_rate, max_turns: Settings of the scripted policy.
        seed: Seed of the scripted policy's mistakes and of the engine.
        max_model_len: Longest prompt and sampled tokens together; None is the model's own limit, at most 4096.
        chat: Template and tool parser of engines that load a model; None is the model's own template and the hermes parser.
        tensor_parallel_size, data_parallel_size: As in `open_vllm`; only vllm takes more than 1.
        endpoint: Settings of endpoints; None is the defaults. The chat options' template settings go into its extra_body.

    Raises ConfigError for what `check_engine` refuses and for a model folder that cannot be loaded.
    """
    check_engine(engine, model, tensor_parallel_size, data_parallel_size)
    chat = chat or ChatOptions()
    if engine == "scripted":
        yield ScriptedPolicy(mistake_rate, seed, max_turns)
    elif _is_endpoint(engine):
        name = None if model is None else str(model)
        yield OpenAIPolicy(engine.removeprefix("openai:"), name, _with_template_settings(endpoint, chat))
    elif _is_plugin(engine):
        with _plugin_policy(engine, model, seed, max_model_len, chat) as policy:
            yield policy
    elif engine == "torch":
        with _torch_policy(model_folder(str(model)), max_model_len, chat) as policy:
            yield policy
    else:
        sizes = {"tensor_parallel_size": tensor_parallel_size, "data_parallel_size": data_parallel_size}
        with _vllm_policy(model_folder(str(model)), seed, max_model_len, chat, sizes) as policy:
            yield policy


def _is_endpoint(engine: str) -> bool:
    return engine.startswith("openai:http")


def _is_plugin(engine: str) -> bool:
    return parse_plugin(engine) is not None and not engine.startswith("openai:")


def _with_template_settings(settings: EndpointSettings | None, chat: ChatOptions) -> EndpointSettings:
    """The endpoint's settings with the template's settings, in vLLM's form."""
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

    chat = ChatFormat.of(check_model_folder(model), options)  # refuses a bad template before an engine is started
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


# -- a user's class ----------------------------------------------------------------------------------------------------

_OF_POLICY = ("engine", "policy_id", "token_identity", "version", "respond")
_OF_TOKEN_ENGINE = ("kind", "version", "max_model_len", "generate", "close")


def _plugin_class(spec: str) -> Any:
    found = load_plugin(spec, "engine")
    if not inspect.isclass(found) or not (hasattr(found, "generate") or hasattr(found, "respond")):
        raise ConfigError(f"The engine {spec!r} is not a class with a method generate or respond.", "See docs/models.md.")  # fmt: skip
    return found


@contextmanager
def _plugin_policy(
    spec: str, model: str | Path | None, seed: int, max_model_len: int | None, options: ChatOptions
) -> Iterator[Policy]:
    """A user's policy, or a token engine of the user's under our chat format."""
    make = _plugin_class(spec)
    settings = {"model": model, "seed": seed, "max_model_len": max_model_len}
    chat = None
    if hasattr(make, "generate"):
        from .chat import ChatFormat

        folder = check_model_folder(model_folder(str(model)))
        chat = ChatFormat.of(folder, options)
        settings |= {"model": folder, "stop_ids": chat.stop_token_ids}
    taken = inspect.signature(make).parameters
    made = make(**{name: value for name, value in settings.items() if name in taken})
    try:
        for attribute in _OF_TOKEN_ENGINE if chat else _OF_POLICY:
            if not hasattr(made, attribute):
                raise ConfigError(f"The engine {spec!r} has no attribute {attribute!r}.", "See docs/models.md.")
        yield TokenPolicy(made, chat, weights_hash(settings["model"])) if chat else made
    finally:
        if hasattr(made, "close"):
            made.close()
