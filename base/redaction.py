"""Keys and passwords in text: how they are recognised, and messages and data without them."""

import os
import re
from collections.abc import Mapping
from typing import Any

_NAMES = r"api[_-]?keys?|(?:access|auth|api|bearer|refresh|hf|id)[_-]?token|client[_-]?secret|secret|password|passwd|authorization|access[_-]?key(?:[_-]?id)?|secret[_-]?access[_-]?key|credentials?|private[_-]?key|cookie"
SECRET_NAME = re.compile(rf"token|(?:.*[._-])?(?:{_NAMES})", re.IGNORECASE)
IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s?#@'\"]+@", re.IGNORECASE)
IN_QUERY = re.compile(rf"([?&](?:{_NAMES}|key|token)=)[^&\s'\"]+", re.IGNORECASE)
_BEARER = re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_VARIABLE = re.compile(r"(?:.*_)?(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|ACCESS_KEY_ID|CREDENTIALS?)")
_SHORTEST = 8
"""Characters of the shortest value of a variable that is taken for a secret."""


def redacted(text: str) -> str:
    """A message without passwords in URLs, bearer tokens, and the values of environment variables that are named as keys."""
    if "://" in text or "earer" in text or "EARER" in text:
        text = _BEARER.sub(r"\1***", IN_QUERY.sub(r"\1***", IN_URL.sub(r"\1***@", text)))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _VARIABLE.fullmatch(name):
            text = text.replace(value, f"${name}")
    return text


def redacted_values(value: Any) -> Any:
    """JSON data with every text redacted, and with the values under secret names blotted out."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: "***" if isinstance(inner, str) and inner and SECRET_NAME.fullmatch(str(key)) else redacted_values(inner) for key, inner in value.items()}  # fmt: skip
    return [redacted_values(inner) for inner in value] if isinstance(value, (list, tuple)) else value
