"""The tools of a request. Functions are used as they are, custom tools as functions with one string, and the endpoint's own tools are dropped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import SchemaMismatch
from ..store.messages import Message
from ..store.tool_schemas import read_tools
from .errors import refused

_TEXT = "input"
# Keys of tools that no template shows. The first two change no answer; clients move the mark of a cache from call to call.
_HARMLESS = {"cache_control", "eager_input_streaming"}
_IGNORED: dict[str, tuple[Any, ...]] = {"format": (None, {"type": "text"}), "defer_loading": (None, False), "allowed_callers": (None, [], ["direct"]), "input_examples": (None, [])}  # fmt: skip
"""With the values that have no effect."""
_OBJECT = {"type": "object", "properties": {_TEXT: {"type": "string"}}, "required": [_TEXT]}


@dataclass(frozen=True)
class RequestTools:
    """Tools in chat form.

    Attributes:
        custom: Names of those that take a text, not an object.
        dropped: Types of those that only OpenAI's or Anthropic's own servers have, such as `web_search`.
        ignored: Keys of tools that have no effect here, such as `tools.format` (the grammar of a custom tool).
    """

    listed: tuple[Mapping[str, Any], ...] = ()
    custom: frozenset[str] = frozenset()
    dropped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """In order."""
        return [tool["function"]["name"] for tool in self.listed]

    def gaps(self) -> list[str]:
        """One for each type of dropped tool."""
        return [f"dropped_tool:{kind}" for kind in dict.fromkeys(self.dropped)]


def read_request_tools(given: Sequence[Any]) -> RequestTools:
    """The tools of any of the routes. Raises ApiError for what is not a tool."""
    kept: list[Any] = []
    custom: set[str] = set()
    dropped: list[str] = []
    ignored: dict[str, None] = {}
    for number, tool in enumerate(given):
        if not isinstance(tool, Mapping):
            raise refused(f"`tools[{number}]` must be an object.")
        kind = str(tool.get("type") or "function")
        if kind in ("function", "custom"):
            tool = _without_marks(tool, ignored)
        if kind == "custom" and "input_schema" not in tool:  # Anthropic's type `custom` is a plain function
            function = _as_function(tool, number)
            custom.add(function["function"]["name"])
            kept.append(function)
        elif kind in ("function", "custom"):
            kept.append(tool)
        else:
            dropped.append(kind)
    try:
        listed = tuple(read_tools(kept))
    except SchemaMismatch as error:
        raise refused(f"A tool cannot be read: {error.message}") from error
    for number, tool in enumerate(listed):
        if not isinstance(tool["function"].get("name"), str):
            raise refused(f"`tools[{number}]` must be a function with a name.")
    return RequestTools(listed, frozenset(custom), tuple(dropped), tuple(ignored))


def _without_marks(tool: Mapping[str, Any], ignored: dict[str, None]) -> dict[str, Any]:
    """The tool without keys that have no effect; `ignored` gets the names of those that are missed."""
    kept: dict[str, Any] = {}
    for name, value in tool.items():
        if name in ("function", "custom") and isinstance(value, Mapping):
            kept[name] = _without_marks(value, ignored)
        elif name in _IGNORED and value not in _IGNORED[name]:
            ignored[f"tools.{name}"] = None
        elif name not in _IGNORED and name not in _HARMLESS:
            kept[name] = value
    return kept


def _as_function(tool: Mapping[str, Any], number: int) -> dict[str, Any]:
    inner = tool.get("custom") if isinstance(tool.get("custom"), Mapping) else tool
    assert inner is not None
    if not isinstance(inner.get("name"), str):
        raise refused(f"`tools[{number}]` must have a name.")
    about = {"description": inner["description"]} if inner.get("description") else {}
    return {"type": "function", "function": {"name": inner["name"], **about, "parameters": _OBJECT}}


def custom_arguments(text: Any) -> str:
    """The arguments of a custom tool's call, from its text."""
    return json.dumps({_TEXT: text if isinstance(text, str) else ""}, ensure_ascii=False)


def custom_text(arguments: str) -> str:
    """The text that a custom tool is called with; the arguments themselves where they are not as its schema says."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = value.get(_TEXT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


def function_calls(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with its calls of custom tools as calls of functions."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not any(isinstance(call, Mapping) and isinstance(call.get("custom"), Mapping) for call in calls):  # fmt: skip
        return message
    return {**message, "tool_calls": [_function_call(call) for call in calls]}


def _function_call(call: Any) -> Any:
    custom = call.get("custom") if isinstance(call, Mapping) else None
    if not isinstance(custom, Mapping):
        return call
    function = {"name": custom.get("name"), "arguments": custom_arguments(custom.get(_TEXT))}
    return {"id": call.get("id"), "type": "function", "function": function}


def chat_calls(message: Message, custom: frozenset[str]) -> list[dict[str, Any]]:
    """The calls of a message as a chat completion has them."""
    calls = []
    for call in message.tool_calls:
        if call.name in custom:
            calls.append({"id": call.id, "type": "custom", "custom": {"name": call.name, _TEXT: custom_text(call.arguments)}})  # fmt: skip
        else:
            calls.append({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})  # fmt: skip
    return calls


@dataclass(frozen=True)
class ToolChoice:
    """Which tools an answer may, must or must not call. `mode` is auto, none or required; `name` is the one tool that must be called."""

    mode: str = "auto"
    name: str | None = None


def read_choice(given: Any, names: Sequence[str]) -> ToolChoice:
    """A `tool_choice` of any of the routes. Raises ApiError for an unknown form or tool."""
    if given is None or given in ("auto", "none", "required"):
        choice = ToolChoice(given or "auto")
    elif given == "any":
        choice = ToolChoice("required")
    elif isinstance(given, Mapping):
        choice = _choice_of(given)
    else:
        raise refused("`tool_choice` must be auto, none, required or a tool.")
    if choice.name is not None and choice.name not in names:
        raise refused(f"`tool_choice` names the tool {choice.name[:100]!r}, which is not in `tools`.")
    if choice.mode == "required" and not names:
        raise refused("`tool_choice` requires a call, and `tools` has no tool.")
    return choice


def _choice_of(given: Mapping[str, Any]) -> ToolChoice:
    kind = given.get("type")
    if kind in ("auto", "none"):
        return ToolChoice(kind)
    if kind == "any":
        return ToolChoice("required")
    if kind in ("function", "tool", "custom"):
        inner = given.get(kind)
        name = inner.get("name") if isinstance(inner, Mapping) else given.get("name")
        if isinstance(name, str):
            return ToolChoice("required", name)
    raise refused("`tool_choice` must be auto, none, required or a tool.", "unsupported")
