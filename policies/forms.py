"""Answers of a given form, for engines with structured outputs: a call that must be made, and any form behind the thinking that a prompt opens."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .chat import ChatFormat
from .parsers import CLOSE

Constraint = tuple[str, str]
"""As `Shaping.constraint`."""


def forced_call(chat: ChatFormat, tools: Sequence[Mapping[str, Any]], name: str | None) -> Constraint | None:
    """The form of a turn that is one call, of the tool `name` or of any; None for a template whose calls are not JSON between known texts."""
    shape = chat.call_shape
    if shape is None:
        return None
    begin, middle, end = shape
    functions = [tool["function"] for tool in tools if name is None or tool["function"]["name"] == name]
    calls = [
        {
            "type": "tag",
            "begin": f"{begin}{function['name']}{middle}",
            "content": {"type": "json_schema", "json_schema": function.get("parameters") or {"type": "object"}},
            "end": end,
        }
        for function in functions
    ]
    return _tag(calls[0] if len(calls) == 1 else {"type": "or", "elements": calls})


def behind_thinking(constraint: Constraint) -> Constraint:
    """The form of a turn whose prompt opened the thinking: any thinking, then the given form."""
    kind, value = constraint
    if kind == "structural_tag":
        inner = json.loads(value).get("format")
        if inner is None:  # an older kind of tag, which lets any text precede
            return constraint
    else:
        inner = _format(kind, value)
    thinking = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": f"{CLOSE}\n\n"}
    return _tag({"type": "sequence", "elements": [thinking, inner]})


def _format(kind: str, value: str) -> dict[str, Any]:
    if kind == "json":
        return {"type": "json_schema", "json_schema": json.loads(value)}
    if kind == "json_object":
        return {"type": "json_schema", "json_schema": {"type": "object"}}
    if kind == "regex":
        return {"type": "regex", "pattern": value}
    if kind == "choice":
        return {"type": "or", "elements": [{"type": "const_string", "value": one} for one in json.loads(value)]}
    return {"type": "grammar", "grammar": value}


def _tag(form: dict[str, Any]) -> Constraint:
    return "structural_tag", json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False)
