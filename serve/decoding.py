"""JSON of callers as Python objects, without holding up the event loop: what takes long is decoded in Python, where other threads run meanwhile."""

import json
import math
from json import scanner
from typing import Any

_MANY_MEMBERS, _MANY_VALUES, _MANY_CONTAINERS = 100_000, 1_500_000, 300_000
"""From so many on, json's decoder in C would take more than about 0.2 s, and hold the interpreter's lock for all of it."""


def decoded(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is not JSON, NaN and infinite numbers included, RecursionError for deep nesting."""
    many = (
        text.count(":") > _MANY_MEMBERS
        or text.count(",") > _MANY_VALUES
        or text.count("[") + text.count("{") > _MANY_CONTAINERS
    )
    return (_STEPWISE if many else _AT_ONCE).decode(text)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # it could not be written as JSON again
        raise ValueError(f"{text[:20]} is too large a number")
    return value


_AT_ONCE = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
_STEPWISE = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
# The decoder's functions for lists and objects are Python already; the one that calls them is C unless it is replaced.
_STEPWISE.scan_once = scanner.py_make_scanner(_STEPWISE)  # pyright: ignore[reportAttributeAccessIssue]
