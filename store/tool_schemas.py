"""Tool schemas in OpenAI chat form, from every form that logs hold."""

import json
from collections.abc import Mapping
from typing import Any

from .content import json_value, wrong

Tool = dict[str, Any]

_SCHEMAS = ("parameters", "input_schema", "inputSchema", "json_schema")


def read_tools(tools: Any, where: str = "tools") -> list[Tool]:
    """Tools in chat form, `{"type": "function", "function": {…}}`, in order.

    Args:
        tools: A list, or JSON text of one, of tools in chat form, in the flat form of Responses and of legacy `functions`, in Anthropic's
            (`input_schema`), or each as JSON text. An object of schemas by name is read too. Null is no tool.

    A property whose schema is null is left out: a table has one set of properties for all tools. Raises SchemaMismatch, naming the path, for what
    is not a tool.
    """
    if isinstance(tools, str):
        if not tools.strip():
            return []
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise wrong(where, f"is text that is not JSON ({error})") from error
    if tools is None:
        return []
    if isinstance(tools, Mapping):
        is_one = "function" in tools or isinstance(tools.get("name"), str)
        tools = [tools] if is_one else [{"name": name, **dict(tool)} for name, tool in tools.items() if isinstance(tool, Mapping)]  # fmt: skip
    if not isinstance(tools, list | tuple):
        raise wrong(where, f"is a {type(tools).__name__}, not a list of tools")
    return [_tool(tool, f"{where}[{number}]") for number, tool in enumerate(tools)]


def _tool(tool: Any, path: str) -> Tool:
    if isinstance(tool, str):
        tool = json_value(tool, "{")
    if not isinstance(tool, Mapping):
        raise wrong(path, "is not a tool")
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "function": _unfilled(tool["function"], "parameters")}
    flat = {name: value for name, value in tool.items() if name != "type"}
    schema = next((name for name in _SCHEMAS if isinstance(flat.get(name), Mapping)), None)
    if schema is not None and schema != "parameters":
        flat = {("parameters" if name == schema else name): value for name, value in flat.items()}
    # A tool of the endpoint's own (web search, …) keeps its type.
    kind = tool.get("type") if isinstance(tool.get("type"), str) and tool["type"] != "custom" else "function"
    return {"type": kind, "function": _unfilled(flat, "parameters")}


def _unfilled(function: Mapping[str, Any], name: str) -> Tool:
    schema = function.get(name)
    if not isinstance(schema, Mapping) or not _is_filled(schema):
        return dict(function)
    return {**function, name: _without_nulls(schema)}


def _is_filled(schema: Any) -> bool:
    """Whether a property's schema is null, somewhere in a schema: only a table writes that."""
    if isinstance(schema, list | tuple):
        return any(map(_is_filled, schema))
    if not isinstance(schema, Mapping):
        return False
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and any(value is None for value in properties.values()):
        return True
    return any(_is_filled(value) for value in schema.values())


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list | tuple) else value


def properties_of(tools: list[Tool]) -> dict[str, set[str]]:
    """By tool, the names of its properties; a tool without a schema is left out."""
    found = {}
    for tool in tools:
        function = tool.get("function")
        if not isinstance(function, Mapping):
            continue
        schema = function.get("parameters")
        if isinstance(schema, Mapping) and isinstance(schema.get("properties"), Mapping):
            found[function.get("name")] = set(schema["properties"])
    return found
