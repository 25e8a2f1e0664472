"""Messages and tool calls as the store keeps them, and their OpenAI chat form."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, overload

from ..base.errors import SchemaMismatch


@dataclass(frozen=True)
class VersionSpan:
    """From token position `start` on (until the next span), tokens came from policy version `version`."""

    start: int
    version: int


@dataclass(frozen=True)
class ToolCall:
    """One call of one tool.

    Attributes:
        id: The call's id, which the tool message refers to; "" when the source gave none.
        name: The tool's name as the policy wrote it.
        arguments: The JSON text of the arguments, byte for byte as the policy wrote it, even when it does not parse.
    """

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """The arguments as an object. Raises ValueError when the text is not a JSON object."""
        value = json.loads(self.arguments)
        if not isinstance(value, dict):
            raise ValueError(f"tool arguments are a JSON {type(value).__name__}, not an object")
        return value


@dataclass(frozen=True)
class Message:
    """One message of a conversation. The fields stand in the order of the stored struct.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        text: The content; None and "" are different (templates treat them differently).
        parts: JSON text of a content that is a list of parts (images, …); `text` is then None.
        reasoning: Reasoning text kept apart from the content, None when the source has none.
        tool_calls: The calls of an assistant message, in order.
        tool_call_id: For a tool message, the call it is the result of.
    """

    role: str
    text: str | None = None
    parts: str | None = field(default=None, kw_only=True)
    reasoning: str | None = field(default=None, kw_only=True)
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The chat-completions form; `arguments` stays a string."""
        message: dict[str, Any] = {"role": self.role, "content": json.loads(self.parts) if self.parts else self.text}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message

    @classmethod
    def from_openai(cls, message: dict[str, Any]) -> "Message":
        """Reads the chat-completions form; flat tool calls (`{name, arguments}`) are accepted too."""
        content = message.get("content")
        calls = []
        for number, call in enumerate(message.get("tool_calls") or []):
            function = call.get("function") or call
            arguments = function["arguments"]
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            calls.append(ToolCall(call.get("id") or f"call_{number}", function["name"], text))
        return cls(
            role=message["role"],
            text=content if isinstance(content, str) else None,
            tool_calls=tuple(calls),
            tool_call_id=message.get("tool_call_id"),
            reasoning=message.get("reasoning_content"),
            parts=json.dumps(content, ensure_ascii=False) if isinstance(content, list) else None,
        )

    def to_row(self) -> dict[str, Any]:
        """The struct stored in a `messages` list column."""
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in self.tool_calls]
        return {
            "role": self.role,
            "text": self.text,
            "parts": self.parts,
            "reasoning": self.reasoning,
            "tool_calls": calls,
            "tool_call_id": self.tool_call_id,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Message":
        """Reads the stored struct."""
        calls = tuple(ToolCall(**call) for call in row["tool_calls"] or ())
        return replace(cls(**{**row, "tool_calls": ()}), tool_calls=calls)


Unknown = Callable[[str, Any], None]
"""Gets the path and the value of a key that no field of a message takes: `messages[2].tool_calls[0].arg`."""

_MESSAGE = {"role", "content", "tool_calls", "tool_call_id", "reasoning_content"}
_CALL, _FUNCTION = {"id", "type", "function"}, {"name", "arguments"}


def refuse_unknown(path: str, value: Any) -> NoReturn:
    """Raises SchemaMismatch for a key that no field takes."""
    raise SchemaMismatch(
        f"{path} is not a field of a chat message.", "Correct the name, or read the record with Rollout.from_dict, which keeps it in `extra`."
    )  # fmt: skip


def read_chat(
    messages: Sequence[Message | Mapping[str, Any]],
    gaps: set[str],
    on_unknown: Unknown = refuse_unknown,
    where: str = "messages",
) -> list[Message]:
    """Chat messages in OpenAI form as messages; those that are messages already stay. Flat tool calls (`{name, arguments}`) are read too.

    Args:
        gaps: Gets `no_call_ids` when ids of calls are missing (they are made up, and results paired with calls in order), and
            `args_reserialized` when arguments were objects.
        on_unknown: Gets each key that no field takes and whose value is not null or empty.
        where: The path of the list, for errors.

    Raises SchemaMismatch, naming the path, for what is not a chat message.
    """
    if not isinstance(messages, list | tuple):
        raise _wrong(where, f"is a {type(messages).__name__}, not a list of messages")
    found: list[Message] = []
    n_calls = 0
    for number, message in enumerate(messages):
        if isinstance(message, Message):
            found.append(message)
        elif isinstance(message, Mapping):
            found.append(_read_message(message, f"{where}[{number}]", found, n_calls, gaps, on_unknown))
        else:
            raise _wrong(f"{where}[{number}]", f"is a {type(message).__name__}, not a message")
        n_calls += len(found[-1].tool_calls)
    return found


def first_unanswered(messages: Sequence[Message]) -> str | None:
    """The id of the first call without a tool message; None when all have one."""
    answered = {message.tool_call_id for message in messages}
    ids = (call.id for message in messages for call in message.tool_calls)
    return next((call_id for call_id in ids if call_id not in answered), None)


def _read_message(
    message: Mapping[str, Any], path: str, before: list[Message], n_calls: int, gaps: set[str], on_unknown: Unknown
) -> Message:
    _look_for_unknown(message, _MESSAGE, path, on_unknown)
    role = _string(message, "role", path)
    content, reasoning, answered = (message.get(name) for name in ("content", "reasoning_content", "tool_call_id"))
    if content is not None and not isinstance(content, str | list):
        raise _wrong(f"{path}.content", "is not a string or a list of parts")
    for name, value in (("reasoning_content", reasoning), ("tool_call_id", answered)):
        if value is not None and not isinstance(value, str):
            raise _wrong(f"{path}.{name}", "is not a string")
    if role == "tool" and not answered:
        gaps.add("no_call_ids")
        answered = first_unanswered(before)
    calls = [
        _read_call(call, f"{path}.tool_calls[{number}]", n_calls + number, gaps, on_unknown)
        for number, call in enumerate(message.get("tool_calls") or ())
    ]
    parts = json.dumps(content, ensure_ascii=False) if isinstance(content, list) else None
    text = content if isinstance(content, str) else None
    return Message(role, text, tuple(calls), answered, reasoning=reasoning, parts=parts)


def _read_call(call: Any, path: str, number: int, gaps: set[str], on_unknown: Unknown) -> ToolCall:
    if not isinstance(call, Mapping):
        raise _wrong(path, f"is a {type(call).__name__}, not a tool call")
    function, inner = call.get("function"), f"{path}.function"
    if function is None:
        function, inner = call, path
        _look_for_unknown(call, _CALL | _FUNCTION, path, on_unknown)
    else:
        _look_for_unknown(call, _CALL, path, on_unknown)
        _look_for_unknown(function, _FUNCTION, inner, on_unknown)
    name = _string(function, "name", inner)
    if "arguments" not in function:
        raise _wrong(f"{inner}.arguments", "is missing")
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        gaps.add("args_reserialized")
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not call.get("id"):
        gaps.add("no_call_ids")
    return ToolCall(call.get("id") or f"call_{number}", name, arguments)


def _look_for_unknown(given: Any, known: set[str], path: str, on_unknown: Unknown) -> None:
    if not isinstance(given, Mapping):
        raise _wrong(path, f"is a {type(given).__name__}, not an object")
    for name, value in given.items():
        # Clients dump the fields that nobody set as null; these say nothing.
        if name not in known and value not in (None, [], {}, ""):
            on_unknown(f"{path}.{name}", value)


def _string(given: Mapping[str, Any], name: str, path: str) -> str:
    if name not in given:
        raise _wrong(f"{path}.{name}", "is missing")
    if not isinstance(given[name], str):
        raise _wrong(f"{path}.{name}", f"is {given[name]!r}, not a string")
    return given[name]


def _wrong(path: str, what: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{path} {what}.", "A message has the form of the OpenAI chat API: role, content, tool_calls."
    )


class MessageList:
    """The descriptor of a field that holds messages and takes chat messages in OpenAI form as they are."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "MessageList": ...

    @overload
    def __get__(self, instance: object, owner: type) -> list[Message]: ...

    def __get__(self, instance: object | None, owner: type) -> "MessageList | list[Message]":
        if instance is None:
            raise AttributeError(self._name)  # so that a dataclass field has no default
        return instance.__dict__[self._name]

    def __set__(self, instance: object, value: Sequence[Message | Mapping[str, Any]]) -> None:
        if type(value) is list and all(type(message) is Message for message in value):
            instance.__dict__[self._name] = value.copy()  # the way of everything that is collected
            return
        gaps: set[str] = set()
        instance.__dict__[self._name] = read_chat(value, gaps, where=self._name)
        instance.__dict__["_read_gaps"] = gaps
