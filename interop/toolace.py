"""ToolACE's way of writing tools and calls: tools as JSON inside the system text, calls as text like `[Weather API(town="Ghent", days=2)]`."""

import ast
import json
from typing import Any

from .rollout import Row
from .values import read_json

_TYPES = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "tuple": "array", "set": "array",
    "dict": "object", "any": "string",
}  # fmt: skip
_NAMES = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_OPEN, _CLOSE = "([{", ")]}"


def chat_tool(tool: Row) -> Row:
    """A tool in chat form with a JSON schema: Python's names of types are replaced, and xLAM's bare properties become an object."""
    function = dict(tool.get("function") or {})
    parameters = function.get("parameters")
    if not isinstance(parameters, dict):
        return tool
    if parameters and "type" not in parameters and "properties" not in parameters and all(isinstance(one, dict) for one in parameters.values()):  # fmt: skip
        needed = [
            name for name, one in parameters.items() if "default" not in one and "optional" not in str(one.get("type"))
        ]
        parameters = {"type": "object", "properties": parameters, "required": needed}
    function["parameters"] = _schema(parameters)
    return {**tool, "function": function}


def _schema(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    fixed = dict(schema)
    if isinstance(schema.get("type"), str):
        name, _, rest = schema["type"].partition(",")
        base = name.strip().partition("[")[0].lower()
        if base in _TYPES or rest:
            fixed["type"] = _TYPES.get(base, base)
    if isinstance(schema.get("properties"), dict):
        fixed["properties"] = {name: _schema(one) for name, one in schema["properties"].items()}
    if "items" in schema:
        fixed["items"] = _schema(schema["items"])
    if "required" in schema and schema["required"] is None:
        del fixed["required"]
    return fixed


def cut_tools(text: str) -> tuple[list[Row], str]:
    """The tools of the first JSON list of tools in a text, and the text without it; no tools and the same text where there is none."""
    decoder = json.JSONDecoder()
    at = text.find("[")
    while at != -1:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            value, end = None, at
        if isinstance(value, list) and value and all(isinstance(tool, dict) and "name" in tool and "parameters" in tool for tool in value):  # fmt: skip
            names = ("name", "description", "parameters")
            tools = [{"type": "function", "function": {name: tool[name] for name in names if name in tool}} for tool in value]  # fmt: skip
            return [chat_tool(tool) for tool in tools], (text[:at].rstrip() + text[end:]).strip()
        at = text.find("[", at + 1)
    return [], text


def read_calls(turns: list[Row], tools: list[Row], gaps: set[str]) -> list[Row]:
    """The turns with calls in place of texts that are calls of these tools; results are paired in order.

    A text in brackets that begins like a call of a tool and is none stays text, with the gap `calls_in_text`.
    """
    names = sorted((tool["function"]["name"] for tool in tools), key=len, reverse=True)
    found: list[Row] = []
    waiting: list[str] = []
    for turn in turns:
        content = turn.get("content")
        if turn.get("role") == "assistant" and isinstance(content, str):
            calls = parse_calls(content, names)
            if calls:
                waiting = [name for name, _ in calls]
                listed = [{"name": name, "arguments": arguments} for name, arguments in calls]
                found.append({**turn, "content": None, "tool_calls": listed})
                continue
            if any(content.strip().startswith(f"[{name}(") for name in names):
                gaps.add("calls_in_text")
        if turn.get("role") == "tool" and len(waiting) > 1 and (results := _results(content, len(waiting))):
            found += [{**turn, "name": name, "content": result} for name, result in zip(waiting, results, strict=True)]
        else:
            found.append(turn)
        waiting = [] if turn.get("role") == "tool" else waiting
    return found


def _results(content: Any, expected: int) -> list[str] | None:
    """One result a call, where a text is a JSON list of as many."""
    value = read_json(content) if isinstance(content, str) else content
    if not isinstance(value, list) or len(value) != expected:
        return None
    return [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in value]


def parse_calls(text: str, names: list[str]) -> list[tuple[str, Row]] | None:
    """The calls of `[NAME(key=value, …), …]` with names and arguments; None when the text is not wholly such calls.

    Args:
        names: The tools' names, longest first; they may hold spaces and dots.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    calls = []
    for part in _parts(text[1:-1]):
        name = next((name for name in names if part.startswith(f"{name}(")), None)
        if name is None or not part.endswith(")"):
            return None
        try:
            arguments = [_argument(one) for one in _parts(part[len(name) + 1 : -1])]
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        calls.append((name, dict(arguments)))
    return calls or None


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no argument")
    return name.strip(), _literal(ast.parse(value.strip(), mode="eval").body)


def _literal(node: ast.expr) -> Any:
    """A literal of Python or JSON as a value that JSON has. Raises ValueError for anything else."""
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = [(_literal(key), _literal(value)) for key, value in zip(node.keys, node.values, strict=True) if key]
        return {key if isinstance(key, str) else json.dumps(key): value for key, value in pairs}
    value = ast.literal_eval(node)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    raise ValueError(f"a {type(value).__name__} is no JSON value")


def _parts(text: str) -> list[str]:
    """The parts between commas that stand in no quotes and no brackets."""
    parts, start, depth, quote, at = [], 0, 0, "", 0
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char == '"' or (char == "'" and not text[at - 1 : at].isalnum()):  # the latter is an apostrophe in a name
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
        at += 1
    return [part for part in (*parts, text[start:].strip()) if part]
