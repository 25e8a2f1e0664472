"""What a result row holds that no column represents: kept as JSON, so that columns and `extra` together give the row back."""

import struct
from collections.abc import Collection
from typing import Any

from .responses import Transcript

Row = dict[str, Any]


def extra_of(row: Row, placed: Collection[str], transcript: Transcript, tokens: Row) -> Row:
    """The rest of a row, of its request and of its response, and of each item.

    Tool schemas stand in `prompts`; a copy that the response echoes is only remembered, as `"tools": "same"`.

    Args:
        placed: Top-level names that have columns.
        tokens: The token columns; where the prompts were not contiguous, each call's own tokens are kept here.
    """
    params, response = row["responses_create_params"], row.get("response")
    kept = {name: value for name, value in row.items() if name not in placed}
    if row.get("reward") is not None and not _exact(row["reward"]):
        kept["reward"] = row["reward"]
    extra: Row = {"row": kept, "params": _params_rest(params), "items": transcript.rests}
    if response is not None:
        rest = {name: value for name, value in response.items() if name not in ("output", "model")}
        if "tools" in rest and rest["tools"] == params.get("tools"):
            rest["tools"] = "same"
        extra["response"] = rest
    if tokens.get("prefix_ok") is False:
        extra["token_calls"] = [vars(call) for call in transcript.token_calls]
    return extra


def _params_rest(params: Row) -> Row:
    rest = {name: value for name, value in params.items() if name not in ("input", "tools")}
    for name in ("temperature", "top_p", "max_output_tokens"):
        if rest.get(name) is not None and _exact(rest[name]):
            del rest[name]
    if isinstance(params["input"], str):
        return {**rest, "input": "text"}
    items = [
        {name: value for name, value in item.items() if name not in ("role", "content")} for item in params["input"]
    ]
    return {**rest, "input": items} if any(items) else rest


def _exact(value: float) -> bool:
    """Whether a 32-bit column holds the number without loss."""
    return struct.unpack("f", struct.pack("f", value))[0] == value
