"""Packages of the optional extras: imported only where they are needed."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from .errors import MissingExtra

_EXTRA_OF = {"vllm": "vllm", "aiohttp": "endpoint", "verifiers": "verifiers"}
# Packages of no extra, by the name that they are imported under: those of harnesses.
_ALONE = {
    "openai": "openai",
    "anthropic": "anthropic",
    "agents": "openai-agents",
    "langgraph": "langgraph",
    "langchain_openai": "langchain-openai",
    "langchain_core": "langchain-core",
    "pydantic_ai": "pydantic-ai-slim[openai]",
    "smolagents": "smolagents",
    "minisweagent": "mini-swe-agent",
}


def require(package: str) -> None:
    """Raises MissingExtra, with the command that installs it, when a package of an extra is missing. Imports nothing."""
    package = package.partition(".")[0]
    if find_spec(package) is None:
        if package in _ALONE:
            raise MissingExtra(
                f"The package {_ALONE[package]} is not installed.", f"Run `pip install '{_ALONE[package]}'`."
            )
        extra = _EXTRA_OF.get(package, "train")
        raise MissingExtra(
            f"The package {package} is not installed.",
            f"Run `make setup` in a checkout, or `pip install 'rollhouse[{extra}]'`.",
        )


def need(package: str) -> ModuleType:
    """Imports a package of an extra, or raises MissingExtra."""
    require(package)
    return import_module(package)
