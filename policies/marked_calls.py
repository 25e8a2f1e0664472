"""Reads calls that follow a mark and have no closing tag: the forms of Llama 3 and of Mistral."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .json_calls import Blocks, JsonCalls, Parsed, is_object, outside, read_calls, skip_space, value_end

_PYTHON_TAG = "<|python_tag|>"
_CALL_ID, _ARGS = "[CALL_ID]", "[ARGS]"
_WORD = re.compile(r"[^\s\[{]{1,256}")


def parse_llama3(text: str, tools: Sequence[Mapping[str, Any]]) -> Parsed:
    """A turn that is one or more objects with `name` and `parameters`, between them `;`, perhaps after `<|python_tag|>`.

    Without the tag, an object is an answer in JSON unless it has arguments or names one of the tools.
    """
    start = skip_space(text, 0)
    tagged = text.startswith(_PYTHON_TAG, start)
    if tagged:
        start = skip_space(text, start + len(_PYTHON_TAG))
    elif not text.startswith(("{", "["), start):
        return text, [], 0
    found = read_calls(text, start, len(text), separators=";,")
    known = {tool.get("function", tool).get("name") for tool in tools}
    if not tagged and any(arguments == "{}" and name not in known for name, arguments in found.calls):
        return text, [], 0
    if not found.calls:
        return text, [], int(tagged or '"name"' in text)
    return outside([text[found.end :]]), found.calls, found.failures


def parse_mistral(text: str, tools: Sequence[Mapping[str, Any]]) -> Parsed:
    """Calls after `[TOOL_CALLS]`: a list of objects, or each call's name and its arguments, between them perhaps `[CALL_ID]…` and `[ARGS]`."""
    calls: list[tuple[str, str]] = []
    kept: list[str] = []
    failures = position = 0
    mark = _MARKS.tags.search(text)
    while mark:
        reach, end = _MARKS.ends(text, mark.end())
        found = _read_marked(text[mark.end() : reach], end - mark.end())
        if found.calls:
            calls += found.calls
            kept.append(text[position : mark.start()])
            position = mark.end() + found.end
        failures += found.failures or not found.calls
        mark = _MARKS.tags.search(text, mark.end() + found.end)
    return (outside([*kept, text[position:]]) if calls else text), calls, failures


_MARKS = Blocks("[TOOL_CALLS]")


def _read_marked(text: str, end: int) -> JsonCalls:
    """The calls after one mark."""
    start = skip_space(text, 0)
    name = _WORD.match(text, start)
    if name is None:
        return read_calls(text, start, end)
    position = name.end()
    if text.startswith(_CALL_ID, position):
        identity = _WORD.match(text, position + len(_CALL_ID))
        position = identity.end() if identity else position
    position = skip_space(text, position)
    if text.startswith(_ARGS, position):
        position = skip_space(text, position + len(_ARGS))
    end = value_end(text, position) or end
    arguments = text[position:end].strip() or "{}"
    if not arguments.startswith("{"):
        return JsonCalls([], name.end())
    return JsonCalls([(name[0], arguments)], end, int(not is_object(arguments)))
