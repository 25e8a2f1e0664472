"""Reads the parameters of a request."""

from collections.abc import Mapping, Sequence

from ..base.errors import ConfigError

Query = Mapping[str, Sequence[str]]


def one_of(query: Query, name: str) -> str:
    """The first value of a parameter, empty when it is missing."""
    return next(iter(query.get(name, ())), "")


def whole(query: Query, name: str, default: int) -> int:
    """A parameter that is a whole number. Raises ConfigError for another text."""
    text = one_of(query, name)
    if text and not text.isdigit():
        raise ConfigError(f"{name}: {text!r} is not a whole number.", "Use 0 or more.")
    return int(text) if text else default
