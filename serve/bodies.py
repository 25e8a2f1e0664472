"""The bytes of a request as a JSON object."""

import json
import math
from typing import Any

from .bounds import refuse_expansion
from .errors import refused

Body = dict[str, Any]
_DEEPEST = 100  # levels of lists and objects; every reader of the journal can handle as many


def body_of(raw: bytes) -> Body:
    """A request's bytes as a JSON object; no bytes are an empty object. Raises ApiError.

    The bytes must be UTF-8: Python would guess UTF-16 and UTF-32, and pass over surrogates.
    """
    refuse_expansion(raw)
    try:
        text = raw.decode("utf-8")
        body = json.loads(text, parse_constant=_no_number, parse_float=_finite) if text.strip() else {}
        if b"\\ud" in raw.lower():  # half of a surrogate pair is not text that a tokenizer or a table can hold
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise refused(f"The body is not JSON: {str(error)[:200]}.") from error
    if not isinstance(body, dict):
        raise refused("The body must be a JSON object.")
    if _is_deep(body):
        raise refused(f"The body is nested more than {_DEEPEST} levels deep.")
    return body


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # it could not be written as JSON again
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _is_deep(body: Body) -> bool:
    level: list[Any] = [body]
    for _ in range(_DEEPEST):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [value for values in inside for value in values if isinstance(value, (dict, list))]
        if not level:
            return False
    return True
