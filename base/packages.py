"""Packages of the optional extras: imported only where they are needed."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from .errors import MissingExtra

_EXTRA_OF = {"vllm": "vllm", "aiohttp": "endpoint", "verifiers": "verifiers"}


def require(package: str) -> None:
    """Raises MissingExtra, with the command that installs it, when a package of an extra is missing. Imports nothing."""
    if find_spec(package) is None:
        extra = _EXTRA_OF.get(package, "train")
        raise MissingExtra(
            f"The package {package} is not installed.",
            f"Run `make setup` in a checkout, or `pip install 'rollhouse[{extra}]'`.",
        )


def need(package: str) -> ModuleType:
    """Imports a package of an extra, or raises MissingExtra."""
    require(package)
    return import_module(package)
