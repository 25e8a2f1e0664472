"""Plain typed functions as tools: the schema that the policy sees, and the check of its arguments."""

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import to_json

from ..base.errors import ConfigError

_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class ArgumentsError(ValueError):
    """Arguments that do not fit the tool; the text is for the policy."""


@dataclass(frozen=True)
class TypedTool:
    """A function as a tool.

    Attributes:
        name, description: The function's name and the text of its docstring before `Args:`.
        parameters: Its parameters' names, in order.
        model: Checks arguments; field `p0` has the first parameter's name as its alias, and so on, so that no name is a reserved one.
    """

    name: str
    description: str
    parameters: tuple[str, ...]
    model: type[BaseModel]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """In OpenAI chat form."""
        parameters = _without_titles(self.model.model_json_schema())
        parameters.setdefault("properties", {})
        parameters.setdefault("required", [])
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def check(self, arguments: Any) -> dict[str, Any]:
        """The arguments as the function takes them: converted if nothing is lost (`"30"` for an int), defaults left to it.

        Raises ArgumentsError.
        """
        if not isinstance(arguments, dict):
            raise ArgumentsError(f"the arguments of {self.name} are not an object")
        try:
            checked = self.model.model_validate(arguments)
        except ValidationError as error:
            problems = (f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors(include_url=False))
            raise ArgumentsError("; ".join(problems)) from None
        names = ((f"p{i}", parameter) for i, parameter in enumerate(self.parameters))
        return {parameter: getattr(checked, field) for field, parameter in names if field in checked.model_fields_set}


_KNOWN: WeakKeyDictionary[CodeType, TypedTool] = WeakKeyDictionary()


def typed_tool(function: Callable[..., Any]) -> TypedTool:
    """A function or method as a tool, made once for all sessions. Raises ConfigError when it lacks types or a docstring."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(plain, "__code__", None)
    if code is None:
        raise ConfigError(f"{function!r} is not a tool.", "A tool is a function or a method.")
    if code not in _KNOWN:
        _KNOWN[code] = _read(plain)
    return _KNOWN[code]


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The schema of a typed function or method, in OpenAI chat form; `self` is left out.

    Types come from the annotations, texts from the docstring: text before `Args:` describes the tool, the entries below it the parameters.

    Raises ConfigError when a parameter has no type, or the function no docstring.
    """
    return typed_tool(function).schema


def as_text(value: Any) -> str:
    """A tool's result as text for the policy: a string unchanged (half characters as `?`), other values as JSON (also dates, dataclasses, pydantic models)."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return to_json(value, inf_nan_mode="null", fallback=str).decode()


def _read(function: Any) -> TypedTool:
    name = function.__name__
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    try:
        types = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(
            f"The types of tool {name} cannot be read: {error}.", "Use types that its file knows."
        ) from error
    if not inspect.getdoc(function):
        raise ConfigError(f"Tool {name} has no docstring.", "Describe what it does: the policy reads it.")
    description, texts = _docstring(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for i, parameter in enumerate(parameters):
        if parameter.kind not in _PLAIN or parameter.name not in types:
            raise ConfigError(
                f"Parameter {parameter.name} of tool {name} has no type, or cannot be given by name.",
                f"Write it as `{parameter.name}: str`.",
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        settings: dict[str, Any] = {"alias": parameter.name}
        if parameter.name in texts:
            settings["description"] = texts[parameter.name]
        fields[f"p{i}"] = (types[parameter.name], Field(default, **settings))
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
        tool = TypedTool(name, description, tuple(p.name for p in parameters), model)
        _ = tool.schema
    except Exception as error:  # pydantic has several names for a type that JSON lacks
        raise ConfigError(f"Tool {name} has a parameter that JSON cannot express: {error}.", "Use str, int, float, bool, list, dict, Literal or a dataclass.") from error  # fmt: skip
    return tool


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description, and the text of each parameter, of a docstring with an `Args:` section."""
    before, _, after = text.partition("Args:\n")
    section = re.split(r"\n\S", after, maxsplit=1)[0]  # up to the next line that is not indented
    entries = re.findall(r"^ +(\w+)(?: \([^)]*\))?: (.*(?:\n {8,}\S.*)*)", section, re.MULTILINE)
    description = re.split(r"\n(?:Returns|Raises|Example)s?:\n", before)[0].strip()
    return " ".join(description.split()), {name: " ".join(text.split()) for name, text in entries}


def _without_titles(schema: Any) -> Any:
    """The schema without the titles that pydantic makes of names; a property called `title` stays."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return {
        key: {name: _without_titles(one) for name, one in value.items()} if key in ("properties", "$defs") else _without_titles(value)
        for key, value in kept.items()
    }  # fmt: skip


def _place(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location) or "arguments"
