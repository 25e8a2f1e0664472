"""The bytes of a request as a JSON object."""

from typing import Any

from .bounds import refuse_expansion
from .decoding import decoded
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
        body = decoded(text) if text.strip() else {}
        if not isinstance(body, dict):
            raise refused("The body must be a JSON object.")
        # Half of a surrogate pair is not text that a tokenizer or a table can hold.
        deep = _is_deep(body, texts=b"\\ud" in raw.lower())
    except (ValueError, RecursionError) as error:
        raise refused(f"The body is not JSON: {str(error)[:200]}.") from error
    if deep:
        raise refused(f"The body is nested more than {_DEEPEST} levels deep.")
    return body


def _is_deep(body: Body, texts: bool) -> bool:
    """Whether the body is nested too deep. Looks at its texts, too, if `texts`, and raises ValueError for one that UTF-8 cannot hold."""
    level: list[Any] = [body]
    for _ in range(_DEEPEST):
        if texts:
            for one in level:
                for value in (*one, *one.values()) if isinstance(one, dict) else one:
                    if isinstance(value, str):
                        value.encode()
        # The types are exact, since json makes no others.
        level = [
            value
            for one in level
            for value in (one.values() if type(one) is dict else one)
            if type(value) is dict or type(value) is list
        ]
        if not level:
            return False
    return True
