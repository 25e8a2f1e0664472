"""The benchmark's function descriptions as tool schemas in OpenAI chat form.

Its dialect resembles JSON Schema, but has type names of Python, Java and JavaScript, dots in function names (which
function-calling interfaces forbid), and its own keyword for optional parameters.
"""

from collections.abc import Mapping
from typing import Any

# "any" is a string because the checker expects one. bfcl-eval turns Java and JavaScript types into strings, except nested ones.
JSON_TYPES = {
    "string": "string", "String": "string", "char": "string", "any": "string", "Any": "string", "": "string",
    "integer": "integer", "long": "integer", "short": "integer", "byte": "integer", "Bigint": "integer",
    "float": "number", "double": "number", "number": "number",
    "boolean": "boolean", "Boolean": "boolean", "bool": "boolean",
    "array": "array", "tuple": "array", "list": "array", "Array": "array", "ArrayList": "array",
    "dict": "object", "object": "object", "HashMap": "object",
}  # fmt: skip


def tool_name(name: str) -> str:
    """A function's name as a function-calling interface allows it: `math.hcf` becomes `math_hcf`."""
    return name.replace(".", "_")


def to_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """One function description as a tool. Its parameters are valid JSON Schema at every depth."""
    parameters = to_json_schema(function["parameters"])
    parameters["type"] = "object"
    parameters.setdefault("properties", {})
    return {
        "type": "function",
        "function": {
            "name": tool_name(function["name"]),
            "description": function.get("description", ""),
            "parameters": parameters,
        },
    }


def to_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A type of the dialect as JSON Schema; unknown type names become strings, as in the benchmark."""
    kind = JSON_TYPES.get(schema.get("type", ""), "string")
    converted = {key: value for key, value in schema.items() if key not in ("type", "properties", "items", "optional")}
    converted["type"] = kind
    if schema.get("type") == "float":
        converted["format"] = "float"
    if "properties" in schema:
        converted["properties"] = {name: to_json_schema(inner) for name, inner in schema["properties"].items()}
    if "items" in schema:
        converted["items"] = to_json_schema(schema["items"])
    return converted
