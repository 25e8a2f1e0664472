"""Reads tool calls where their JSON begins, out of text that a model sampled.

Arguments are the text as it stands; nothing is formatted again. Every function takes time linear in the length of the text that it is given: a reader gives
the text of one block, since the exception of a value that is not JSON counts the lines before it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

_SPACE = re.compile(r"[ \t\n\r]*")
# Only the ends of values are needed: raw line ends in strings do not hide them, and no digits are converted.
_DECODER = json.JSONDecoder(strict=False, parse_int=len, parse_float=len)
_ARGUMENTS = ("arguments", "parameters")
_NAMES = ("name", "tool_name")
_BESIDE = {"id", "type", "tool_call_id", *_NAMES}

Parsed = tuple[str | None, list[tuple[str, str]], int]
"""Text outside the calls, (name, arguments as JSON text) of each call, and the number of calls that could not be read."""


@dataclass(frozen=True)
class WrittenCall:
    """A call as it was written.

    Attributes:
        name: The tool's name.
        arguments: Their text, `{}` when they are absent, null or empty; None when they are broken JSON, which begins at `end`.
        end: The position after the call.
        whole: Whether the object was valid JSON. A call whose last brace is missing is not.
    """

    name: str
    arguments: str | None
    end: int
    whole: bool = True


def read_call(text: str, start: int) -> WrittenCall | None:
    """The call whose object begins at `start`: `{"name": …, "arguments": …}`, also under the key `function`; None when there is none.

    `parameters` is read like `arguments`, `tool_name` like `name`. An object without either is a call without arguments, unless it has other fields.
    """
    fields = _read_fields(text, start)
    if fields is None:
        return None
    function = fields.spans.get("function")
    if function is None or not text.startswith("{", function[0]):
        return _as_call(text, fields)
    inner = _read_fields(text, function[0])
    call = inner and _as_call(text, inner)
    return call and replace(call, end=fields.end, whole=call.whole and fields.complete)


def _as_call(text: str, fields: "_Fields") -> WrittenCall | None:
    name = next((_string(text, fields.spans[key]) for key in _NAMES if key in fields.spans), None)
    if not name or not storable(name):
        return None
    if fields.broken in _ARGUMENTS:
        return WrittenCall(name, None, fields.end, whole=False)
    key = next((key for key in _ARGUMENTS if key in fields.spans), None)
    if key is None:
        without = fields.complete and not set(fields.spans) - _BESIDE
        return WrittenCall(name, "{}", fields.end) if without else None
    arguments = _arguments(text, fields.spans[key])
    return WrittenCall(name, arguments, fields.end, fields.complete) if storable(arguments) else None


@dataclass
class JsonCalls:
    """Calls that stand one after the other.

    Attributes:
        calls: Each call's (name, text of its arguments).
        end: The position after the last one.
        failures: The number of calls that are not whole, or whose arguments are not a JSON object, or that could not be read.
    """

    calls: list[tuple[str, str]]
    end: int
    failures: int = 0


class Blocks:
    """Finds where blocks end that begin and end with tags or marks."""

    def __init__(self, *tags: str) -> None:
        self.tags = re.compile("|".join(re.escape(tag) for tag in tags))
        # Escaped quotes are no quotes outside strings either: whether a quote counts must not depend on where the reading began.
        self._signs = re.compile(rf'\\["\\]|"|{self.tags.pattern}')

    def ends(self, text: str, start: int) -> tuple[int, int]:
        """How far a block that begins at `start` reaches if it is JSON, and where it ends if it is not.

        Both are the next tag outside strings. Without one, JSON reaches to the text's end, and what is not JSON ends there when no string is open, else
        at the next tag.

        Together the blocks of a text are read in linear time: a tag inside a string of one block is outside those of the blocks that begin in that string.
        """
        inside, first = False, len(text)
        for sign in self._signs.finditer(text, start):
            if sign[0] == '"':
                inside = not inside
            elif sign[0][0] == "\\":
                continue
            elif not inside:
                return sign.start(), sign.start()
            else:
                first = min(first, sign.start())
        return len(text), first if inside else len(text)


def read_calls(text: str, start: int, end: int, separators: str = ",") -> JsonCalls:
    """The objects at `start`, or those of the list there, up to what is no call. An object after the first that is no call is a failure.

    `end` is where the block ends if it is not JSON.
    """
    found = JsonCalls([], start)
    listed = text.startswith("[", start)
    position = skip_space(text, start + 1) if listed else start
    while text.startswith("{", position):
        call = read_call(text, position)
        call = _with_broken_arguments(text, call, end) if call and call.arguments is None else call
        if call is None or call.arguments is None:
            found.failures += bool(found.calls)
            return found
        found.calls.append((call.name, call.arguments))
        found.failures += not (call.whole and is_object(call.arguments))
        found.end = call.end
        position = skip_space(text, call.end)
        if position < len(text) and text[position] in separators:
            position = skip_space(text, position + 1)
    if listed and found.calls:
        position = skip_space(text, found.end)
        if text.startswith("]", position):
            found.end = position + 1
        else:
            found.failures += not found.failures
    return found


def _with_broken_arguments(text: str, call: WrittenCall, end: int) -> WrittenCall | None:
    """The call with what stands before the block's last brace, which is what the policy meant; None when there is no brace."""
    written = text[call.end : end].rstrip()
    return WrittenCall(call.name, written[:-1].rstrip(), end, whole=False) if written.endswith("}") else None


def outside(parts: Sequence[str]) -> str | None:
    """What stands around the calls, each part on lines of its own; None without any."""
    return "\n".join(part.strip() for part in parts if part.strip()) or None


def is_object(arguments: str) -> bool:
    """Whether the text of arguments is a JSON object."""
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def skip_space(text: str, position: int) -> int:
    """The position of the first character from `position` on that is no white space of JSON."""
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]


def value_end(text: str, start: int) -> int | None:
    """The position after the JSON value at `start`; None when there is none."""
    value, end = _value(text, start)
    return None if value is _BROKEN else end


def storable(text: str) -> bool:
    """Whether the text has no lone surrogate, which JSON can escape and neither a table nor a template can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass
class _Fields:
    """The fields of one JSON object.

    Attributes:
        spans: Start and end of each field's value.
        end: The position after the object; after the last value when the object is not complete.
        broken: The field whose value is broken JSON; it begins at `end`.
    """

    spans: dict[str, tuple[int, int]]
    end: int
    complete: bool = False
    broken: str | None = None


def _read_fields(text: str, start: int) -> _Fields | None:
    """The object that begins at `start`, as far as it is JSON; None when there is no `{`."""
    if not text.startswith("{", start):
        return None
    fields = _Fields({}, start + 1)
    position = skip_space(text, start + 1)
    if text.startswith("}", position):
        return _Fields({}, position + 1, complete=True)
    while True:
        key, position = _value(text, position)
        position = skip_space(text, position)
        if not isinstance(key, str) or not text.startswith(":", position):
            return fields
        begin = skip_space(text, position + 1)
        value, position = _value(text, begin)
        if value is _BROKEN:
            fields.broken, fields.end = key, begin
            return fields
        fields.spans[key], fields.end = (begin, position), position
        position = skip_space(text, position)
        if text.startswith("}", position):
            fields.complete, fields.end = True, position + 1
            return fields
        if not text.startswith(",", position):
            return fields
        position = skip_space(text, position + 1)


_BROKEN = object()


def _value(text: str, position: int) -> tuple[object, int]:
    """The JSON value at a position and the position after it; (_BROKEN, position) when it is not JSON."""
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return _BROKEN, position


def _string(text: str, span: tuple[int, int] | None) -> str | None:
    value = _value(text, span[0])[0] if span else None
    return value if isinstance(value, str) else None


def _arguments(text: str, span: tuple[int, int]) -> str:
    written = text[slice(*span)]
    if written.startswith('"'):
        written = _string(text, span) or ""
    return "{}" if written.strip() in ("", "null") else written
