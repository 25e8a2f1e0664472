"""Reads the Hermes form of tool calls: `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`."""

import json
import re

from ..store.messages import Message, ToolCall

# The closing tag may be missing at the very end of a turn.
_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
# A call whose arguments are broken inside: the name can still be read, and the rest up to the last brace is what the policy meant.
_BROKEN_INSIDE = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(.*?)\s*\}\s*\Z', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def parse_turn(text: str, first_call: int = 0) -> tuple[Message, int]:
    """A decoded turn as an assistant message, and how many of its tool calls did not parse.

    Arguments are kept byte for byte as they were written. A call whose arguments alone are broken JSON is still a call (the environment
    answers it with an error) and counts as a failure; a block that is not a call stays in the text and counts as one.

    Args:
        first_call: Number of the first call's id, `call_<n>`.
    """
    calls: list[ToolCall] = []
    failures, kept, position = 0, [], 0
    for block in _BLOCK.finditer(text):
        read = _read_call(block[1].strip())
        if read is None:
            failures += 1
            continue
        name, arguments = read
        call = ToolCall(f"call_{first_call + len(calls)}", name, arguments)
        failures += not _parses(call)
        calls.append(call)
        kept.append(text[position : block.start()])
        position = block.end()
    kept.append(text[position:])
    if not calls:
        return Message("assistant", text), failures
    outside = "\n".join(part.strip() for part in kept if part.strip())
    return Message("assistant", outside or None, tuple(calls)), failures


def _parses(call: ToolCall) -> bool:
    try:
        call.parsed()
    except (ValueError, RecursionError):
        return False
    return True


def _read_call(block: str) -> tuple[str, str] | None:
    """(name, text of the arguments), or None when the block is not a call."""
    try:
        fields = _object_fields(block)
        name, arguments = json.loads(fields["name"]), fields["arguments"]
        if arguments.startswith('"'):
            arguments = json.loads(arguments)
    except (ValueError, RecursionError):
        broken = _BROKEN_INSIDE.fullmatch(block)
        if broken is None:
            return None
        name, arguments = json.loads(broken[1], strict=False), broken[2]
    except KeyError:
        return None
    return (name, arguments) if isinstance(name, str) and _storable(name) and _storable(arguments) else None


def _storable(text: str) -> bool:
    # JSON can escape half of a surrogate pair, which a table or a template cannot hold.
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _object_fields(text: str) -> dict[str, str]:
    """The fields of a JSON object as their own text, so that nothing is formatted again. Raises ValueError."""
    fields: dict[str, str] = {}
    position = _expect(text, 0, "{")
    while True:
        key, position = _DECODER.raw_decode(text, _SPACE.match(text, position).end())  # type: ignore[union-attr]
        if not isinstance(key, str):
            raise ValueError("a key is not a string")
        start = _SPACE.match(text, _expect(text, position, ":")).end()  # type: ignore[union-attr]
        _, position = _DECODER.raw_decode(text, start)
        fields[key] = text[start:position]
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == "}":
            break
        position = _expect(text, position, ",")
    if text[position + 1 :].strip():
        raise ValueError("text after the object")
    return fields


def _expect(text: str, position: int, sign: str) -> int:
    position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
    if text[position : position + 1] != sign:
        raise ValueError(f"no {sign!r} at {position}")
    return position + 1
