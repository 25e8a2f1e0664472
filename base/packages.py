"""Packages of the optional extras: imported only where they are needed."""

import json
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec
from types import ModuleType
from urllib.parse import unquote, urlsplit

from .errors import MissingExtra

_EXTRA_OF = {"vllm": "vllm", "aiohttp": "endpoint", "plotly": "report", "verifiers": "verifiers"}
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


def install_command(extra: str = "") -> str:
    """The command that adds an extra to the rollhouse that runs: from the checkout or file that it was installed from (PEP 610), else by its name."""
    wanted = f"[{extra}]" if extra else ""
    # Metadata that a build left in the working directory says nothing of where it came from.
    told = (found.read_text("direct_url.json") for found in distributions(name="rollhouse"))
    origin = json.loads(next((text for text in told if text), "{}"))
    url = origin.get("url", "")
    if origin.get("dir_info", {}).get("editable"):
        return f"pip install -e '{unquote(urlsplit(url).path)}{wanted}'"
    return f"pip install 'rollhouse{wanted}{f' @ {url}' if url else ''}'"


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
            f"Run `make setup` in a checkout, or `{install_command(extra)}`.",
        )


def need(package: str) -> ModuleType:
    """Imports a package of an extra, or raises MissingExtra."""
    require(package)
    return import_module(package)
