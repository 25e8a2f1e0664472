"""JSON that every reader takes: NaN and infinities, which JSON has not, are null."""

import json
import math
from typing import Any


def to_json(value: Any, default: Any = None) -> str:
    """The value as one line of JSON.

    Args:
        default: Makes a value that JSON knows of one that it does not, as in `json.dumps`.
    """
    try:
        return json.dumps(value, default=default, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=default, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
