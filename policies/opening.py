"""Opens the policy that settings describe, and closes all that was started for it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..base.plugins import FORMS, load_plugin, parse_plugin
from .config import ChatOptions, EndpointSettings, PolicySettings, VllmArguments
from .endpoint import OpenAIPolicy
from .models import check_model_folder, model_folder, weights_hash
from .scripted import ScriptedPolicy
from .token_policy import TokenPolicy
from .types import Policy

ENGINES = ("scripted", "vllm", "torch", "openai:URL[,URL…]")
_LOADING = ("vllm", "torch")


def check_engine(policy: PolicySettings) -> None:
    """Raises ConfigError for an unknown engine, one that lacks its model, or engine arguments that it does not accept."""
    engine, arguments = policy.engine, policy.generation.vllm
    if engine not in ENGINES and not _is_endpoint(engine) and not _is_plugin(engine):
        raise ConfigError(f"There is no engine {engine!r}.", f"Engines are {', '.join(ENGINES)}, or a class: {FORMS}.")
    if loads_model(engine) and policy.model_name is None:
        raise ConfigError(f"The engine {engine} needs a model.", "Name a folder or a hub name with --model.")
    if engine != "vllm" and arguments != VllmArguments():
        sizes = (arguments.tensor_parallel_size, arguments.data_parallel_size) != (1, 1)
        what = "parallel sizes" if sizes else "vLLM arguments"
        raise ConfigError(f"The engine {engine} has no {what}.", "Leave them out, or use --engine vllm.")


def loads_model(engine: str) -> bool:
    """Whether the engine loads a model folder. Raises ConfigError for a plug-in that cannot be loaded or is not an engine."""
    return engine in _LOADING or (_is_plugin(engine) and hasattr(_plugin_class(engine), "generate"))


def model_hash(policy: PolicySettings) -> str | None:
    """The weights hash of the model that the engine loads; None for an engine that loads none."""
    if policy.model_name is None or not loads_model(policy.engine):
        return None
    return weights_hash(check_model_folder(model_folder(policy.model_name)))


@contextmanager
def open_policy(settings: PolicySettings, *, seed: int = 0, max_turns: int = 6) -> Iterator[Policy]:
    """The policy of the settings, closed at the end.

    Args:
        settings: The engine is `scripted`, `vllm`, `torch`, `openai:URL` (several URLs with commas between them), or a user's class, see
            docs/models.md. The model is a folder or a hub name; for an endpoint the name it serves, None for its first.
        seed: Seed of the scripted engine's mistakes and of the engine's sampling.
        max_turns: Model calls that the scripted engine fits a rollout into.

    Raises ConfigError for what `check_engine` refuses and for a model folder that cannot be loaded.
    """
    check_engine(settings)
    engine, model, chat, length = (
        settings.engine,
        settings.model_name,
        settings.chat,
        settings.max_total_sequence_length,
    )
    if engine == "scripted":
        yield ScriptedPolicy(settings.mistake_rate, seed, max_turns)
    elif _is_endpoint(engine):
        yield OpenAIPolicy(engine.removeprefix("openai:"), model, _with_template_settings(settings.endpoint, chat))
    elif _is_plugin(engine):
        with _plugin_policy(engine, model, seed, length, chat) as policy:
            yield policy
    elif engine == "torch":
        with _torch_policy(model_folder(str(model)), length, chat) as policy:
            yield policy
    else:
        with _vllm_policy(model_folder(str(model)), seed, length, chat, settings.generation.vllm.arguments) as policy:
            yield policy


def _is_endpoint(engine: str) -> bool:
    return engine.startswith("openai:http")


def _is_plugin(engine: str) -> bool:
    return parse_plugin(engine) is not None and not engine.startswith("openai:")


def _with_template_settings(endpoint: EndpointSettings, chat: ChatOptions) -> EndpointSettings:
    """The endpoint's settings with the template's settings, in vLLM's form."""
    if not chat.template_settings():
        return endpoint
    body = {**endpoint.extra_body, "chat_template_kwargs": chat.template_settings()}
    return endpoint.model_copy(update={"extra_body": body})


@contextmanager
def _torch_policy(model: Path, max_model_len: int | None, options: ChatOptions) -> Iterator[TokenPolicy]:
    from .chat import ChatFormat
    from .engines.torch_engine import TorchEngine

    chat = ChatFormat.of(check_model_folder(model), options)
    engine = TorchEngine(model, max_model_len, stop_ids=chat.stop_token_ids)
    try:
        yield TokenPolicy(engine, chat, weights_hash(model))
    finally:
        engine.close()


@contextmanager
def _vllm_policy(
    model: Path, seed: int, max_model_len: int | None, options: ChatOptions, arguments: dict[str, Any]
) -> Iterator[TokenPolicy]:
    from .chat import ChatFormat
    from .engines.cluster import ensure_ray, shutdown_ray
    from .engines.vllm_actor import open_vllm

    chat = ChatFormat.of(check_model_folder(model), options)  # refuses a bad template before an engine is started
    started = ensure_ray()
    try:
        engine = open_vllm(model, max_model_len=max_model_len, seed=seed, stop_ids=chat.stop_token_ids, **arguments)
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
