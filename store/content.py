"""The content of a message of any dialect: text, or a list of parts that hold text, reasoning, calls, results of calls, and media.

The parts of OpenAI chat (`text`, `refusal`, `image_url`), OpenAI Responses (`input_text`, `output_text`, `reasoning_text`), Anthropic
(`thinking`, `tool_use`, `tool_result`), OpenTelemetry (`reasoning`, `tool_call`, `tool_call_response`) and Inspect are read.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..base.errors import SchemaMismatch

Note = Callable[[str, Any], None]
"""Gets the path and the value of a key that no field of a message takes: `messages[2].tool_calls[0].arg`."""

# The keys under which dialects keep reasoning, beside the content and inside a part.
REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details", "thinking_blocks")
_WORDS = ("text", "content", "output_text", "input_text")
_TEXT_PARTS = {"text", "input_text", "output_text", "refusal"}
_REASONING_PARTS = {"thinking", "reasoning", "reasoning_text", "summary_text", "reasoning.text", "reasoning.summary"}
_CALL_PARTS = {"tool_use", "server_tool_use", "mcp_tool_use", "tool_call", "function_call"}
_RESULT_PARTS = {"tool_result", "tool_call_response", "mcp_tool_result", "web_search_tool_result", "code_execution_tool_result"}  # fmt: skip
PARTS = _TEXT_PARTS | _REASONING_PARTS | _CALL_PARTS | _RESULT_PARTS | {"image", "image_url", "input_image", "audio", "input_audio", "document", "file", "input_file", "redacted_thinking"}  # fmt: skip

# Ids and states of the API that made the record; they say nothing of what was said.
BOOKKEEPING = {"type", "id", "index", "status", "object", "format"}
_LONE = re.compile("[\ud800-\udfff]")
ERROR_MARK = re.compile(r"^\W*error", re.IGNORECASE)


def is_empty(value: Any) -> bool:
    """Whether it is null or empty: clients write unset fields like this."""
    return value is None or value is False or (isinstance(value, (str, list, dict, tuple)) and not value)


@dataclass(slots=True)
class CallDraft:
    """A call before it has an id that is unique. `arguments` are an object until those of the whole conversation are known."""

    id: str | None
    name: str
    arguments: str | Mapping[str, Any]


@dataclass(slots=True)
class MessageDraft:
    """A message before calls and results are paired.

    Attributes:
        answers: For a result, the id that its source gives for the call.
        tool: For a result, the name of the tool, when its source gives it.
        untrained: Whether its source says that it is not to be learned from.
    """

    role: str
    text: str | None = None
    parts: list[Any] | None = None
    reasoning: str | None = None
    calls: list[CallDraft] = field(default_factory=list)
    answers: str | None = None
    tool: str | None = None
    untrained: bool = False


@dataclass
class Notes:
    """What is noticed while one rollout's messages are read.

    Attributes:
        gaps: Names of what is missing or was changed.
        note: Gets each key that no field takes.
    """

    gaps: set[str]
    note: Note

    def leftovers(self, given: Mapping[str, Any], known: set[str], path: str) -> None:
        """Notes the keys that are not known and hold something."""
        for name, value in given.items():
            if name not in known and not is_empty(value):
                self.note(f"{path}.{name}", value)

    def text(self, value: str) -> str:
        """The text with U+FFFD in place of halves of surrogate pairs, which no table and no tokenizer can hold."""
        if value.isascii():
            return value
        cleaned = _LONE.sub("�", value)
        if cleaned != value:
            self.gaps.add("surrogates_replaced")
        return cleaned


def wrong(path: str, what: str) -> SchemaMismatch:
    """The error for a value that is not of any dialect."""
    return SchemaMismatch(f"{path} {what}.", "A message has a role, and content or tool calls, as in the chat API.")


def refuse_unknown(path: str, value: Any) -> NoReturn:
    """Raises SchemaMismatch for a key that no field takes."""
    raise SchemaMismatch(
        f"{path} is not a field of a chat message.", "Correct the name, or read the record with Rollout.from_dict, which keeps it in `extra`."
    )  # fmt: skip


def json_value(text: str, opening: str = "[{") -> Any:
    """What JSON text holds when it begins with one of `opening`, else None."""
    begin = text.lstrip("\ufeff \t\r\n")
    if not begin or begin[0] not in opening:
        return None
    try:
        return json.loads(begin)
    except (ValueError, RecursionError):
        return None


def json_text(value: Any) -> str:
    """A value as JSON text. Values of a table that JSON has no form for, such as times, become text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def read_content(content: Any, role: str, path: str, notes: Notes) -> list[MessageDraft]:
    """The messages that a content stands for, in order: results of calls are messages of their own.

    Empty when it is null or empty. Raises SchemaMismatch for content that is not text or a list of parts.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [MessageDraft(role, notes.text(content))]
    if isinstance(content, Mapping):
        if role == "tool" and content.get("type") not in PARTS:
            notes.gaps.add("content_reserialized")
            return [MessageDraft(role, notes.text(json_text(content)))]
        content = [content]
    if role == "tool" and not isinstance(content, list | tuple):
        notes.gaps.add("content_reserialized")
        return [MessageDraft(role, json_text(content))]
    if not isinstance(content, list | tuple):
        raise wrong(path, "is not a string or a list of parts")
    return _Parts(role, notes).read(content, path)


class _Parts:
    """Reads one list of parts."""

    def __init__(self, role: str, notes: Notes) -> None:
        self._role, self._notes = role, notes
        self._drafts: list[MessageDraft] = []
        self._open()

    def _open(self) -> None:
        self._draft = MessageDraft(self._role)
        self._kept: list[Any] = []
        self._words: list[str] = []
        self._reasoning: list[str] = []
        self._has_media = False

    def read(self, parts: Sequence[Any], path: str) -> list[MessageDraft]:
        for number, part in enumerate(parts):
            self._part(part, f"{path}[{number}]")
        self._close()
        return self._drafts

    def _close(self) -> None:
        draft = self._draft
        if self._has_media:
            draft.parts = self._kept
        elif self._words:
            draft.text = self._notes.text("".join(self._words))
        if self._reasoning:
            draft.reasoning = self._notes.text("\n".join(self._reasoning))
        if draft.text is not None or draft.parts or draft.reasoning is not None or draft.calls:
            self._drafts.append(draft)
        self._open()

    def _part(self, part: Any, path: str) -> None:
        if isinstance(part, str):
            self._say(part, {"type": "text", "text": part})
            return
        if not isinstance(part, Mapping):
            raise wrong(path, f"is a {type(part).__name__}, not a part of a content")
        kind = part.get("type")
        if kind in _RESULT_PARTS:
            self._close()
            self._drafts.append(read_result(part, path, self._notes))
        elif kind in _CALL_PARTS:
            self._draft.calls.append(read_call(part, path, self._notes))
        elif kind in _REASONING_PARTS:
            self._think(part, path)
        elif kind == "redacted_thinking":
            self._notes.note(f"{path}.data", part.get("data"))
        elif kind in _TEXT_PARTS or (kind is None and any(isinstance(part.get(name), str) for name in _WORDS)):
            words = part.get("refusal") if kind == "refusal" else _first_text(part, _WORDS)
            self._notes.leftovers(part, {*BOOKKEEPING, *_WORDS, "refusal"}, path)
            self._say(words or "", part)
        else:
            self._has_media = True
            self._kept.append({name: value for name, value in part.items() if value is not None})

    def _say(self, words: str, part: Mapping[str, Any]) -> None:
        if self._draft.calls:
            self._notes.gaps.add("parts_reordered")
        self._words.append(words)
        self._kept.append(part if part.get("type") == "text" else {"type": "text", "text": words})

    def _think(self, part: Mapping[str, Any], path: str) -> None:
        if self._draft.calls or self._words:
            self._notes.gaps.add("parts_reordered")
        self._reasoning += _thoughts(part, path, self._notes)


def reasoning_text(value: Any, path: str, notes: Notes) -> str | None:
    """The words of a value that holds reasoning: text, a part, or a list of them. None when it holds no words."""
    if value is None:
        return None
    if isinstance(value, str):
        return notes.text(value)
    found: list[str] = []
    for number, part in enumerate(value if isinstance(value, list | tuple) else [value]):
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, Mapping):
            found += _thoughts(part, f"{path}[{number}]", notes)
        else:
            raise wrong(path, "is not text or a list of parts")
    return notes.text("\n".join(found)) if found else None


def _thoughts(part: Mapping[str, Any], path: str, notes: Notes) -> list[str]:
    """The words of one reasoning part. Where it holds the reasoning and a summary of it, the summary is noted."""
    names = ("thinking", "reasoning", "reasoning_text", *_WORDS, "summary")
    found: list[str] = []
    for name in names:
        words = reasoning_text(part.get(name), f"{path}.{name}", notes)
        if not words:
            continue
        if found and found != [words]:
            notes.note(f"{path}.{name}", words)
        found = found or [words]
    notes.leftovers(part, {*BOOKKEEPING, *names}, path)
    return found


def _first_text(part: Mapping[str, Any], names: Sequence[str]) -> str | None:
    for name in names:
        value = part.get(name)
        if isinstance(value, Mapping):  # the Assistants API: {"value": …, "annotations": []}
            value = value.get("value")
        if isinstance(value, str):
            return value
    return None


_CALL_IDS = ("id", "call_id", "tool_call_id", "tool_use_id")
_CALL_NAMES = ("name", "function_name", "tool_name", "tool")
_ARGUMENTS = ("arguments", "input", "args", "parameters")


def read_call(call: Any, path: str, notes: Notes) -> CallDraft:
    """One call: nested under `function`, flat, or a part. Raises SchemaMismatch when it has no name."""
    if isinstance(call, str):
        call = json_value(call, "{")
    if not isinstance(call, Mapping):
        raise wrong(path, "is not a tool call")
    inner, inside = call, path
    for name in ("function", "custom"):
        if isinstance(call.get(name), Mapping):
            inner, inside = call[name], f"{path}.{name}"
            notes.leftovers(call, {*BOOKKEEPING, *_CALL_IDS, name}, path)
    plain = isinstance(call.get("function"), str)  # Inspect: `function` is the name
    names = (*_CALL_NAMES, *(("function",) if plain else ()))
    notes.leftovers(inner, {*BOOKKEEPING, *_CALL_IDS, *names, *_ARGUMENTS}, inside)
    name = next((inner[key] for key in names if inner.get(key) is not None), None)
    if name is None:
        raise wrong(f"{inside}.name", "is missing")
    if not isinstance(name, str):
        raise wrong(f"{inside}.name", f"is {name!r}, not a string")
    id = next((call[key] for key in _CALL_IDS if call.get(key) not in (None, "")), None)
    if id is not None and not isinstance(id, str | int):
        raise wrong(f"{path}.id", f"is {id!r}, not a string")
    return CallDraft(None if id is None else notes.text(str(id)), notes.text(name), _arguments(inner, notes))


def _arguments(call: Mapping[str, Any], notes: Notes) -> str | Mapping[str, Any]:
    """The text as it was written, or an object. Empty, null and absent are an object without keys."""
    value = next((call[name] for name in _ARGUMENTS if call.get(name) is not None), None)
    if isinstance(value, str):
        if call.get("arguments") is None and call.get("input") is value and json_value(value, "{") is None:
            notes.gaps.add("args_reserialized")  # a custom tool takes text
            return {"input": notes.text(value)}
        return "{}" if value.strip() in ("", "null") else notes.text(value)
    if value is None:
        return "{}"
    notes.gaps.add("args_reserialized")
    return value if isinstance(value, Mapping) else json_text(value)


_RESULT_IDS = ("tool_call_id", "tool_use_id", "call_id", "source_call_id")
_OUTPUTS = ("content", "output", "response", "result")


def read_result(result: Mapping[str, Any], path: str, notes: Notes, text_only: bool = False) -> MessageDraft:
    """A result that stands apart from messages: an Anthropic part, a Responses output, an OpenTelemetry part."""
    names = [name for name in _OUTPUTS if result.get(name) is not None]
    made = read_content(result[names[0]], "tool", f"{path}.{names[0]}", notes) if names else []
    draft = made[0] if made else MessageDraft("tool")
    draft.answers = result_id(result, path, (*_RESULT_IDS, *(("id",) if result.get("type") == "tool_call_response" else ())))  # fmt: skip
    draft.tool = result_tool(result)
    if result.get("is_error"):
        mark_error(draft, notes)
    notes.leftovers(result, {*BOOKKEEPING, *_RESULT_IDS, *_OUTPUTS, "name", "tool_name", "is_error"}, path)
    return draft


def result_id(result: Mapping[str, Any], path: str, names: Sequence[str] = _RESULT_IDS) -> str | None:
    """The id of the call that a result answers; None when it gives none."""
    found = next((result[name] for name in names if result.get(name) not in (None, "")), None)
    if found is not None and not isinstance(found, str | int):
        raise wrong(f"{path}.tool_call_id", "is not a string")
    return None if found is None else _LONE.sub("�", str(found))


def result_tool(result: Mapping[str, Any]) -> str | None:
    """The name of the tool that a result is of; None when it gives none."""
    found = next((result[name] for name in ("name", "tool_name", "function") if isinstance(result.get(name), str)), None)  # fmt: skip
    return found or None


def mark_error(draft: MessageDraft, notes: Notes) -> None:
    """Makes the text of a result that its source flags as an error begin with the word, which is how the store knows errors."""
    if draft.parts is None and not ERROR_MARK.match(draft.text or ""):
        draft.text = f"Error: {draft.text or ''}".rstrip()
        notes.gaps.add("errors_marked")
