"""The one reader of messages: OpenAI chat, its legacy functions, Responses items, Anthropic, OpenTelemetry, and JSON text of any of these."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, overload

from ..base.errors import SchemaMismatch
from .content import (
    BOOKKEEPING,
    PARTS,
    REASONING,
    MessageDraft,
    Note,
    Notes,
    is_empty,
    json_value,
    mark_error,
    read_call,
    read_content,
    reasoning_text,
    refuse_unknown,
    result_id,
    result_tool,
    wrong,
)
from .items import Items, TokenCall, is_item
from .messages import Message
from .pairing import Pairing, drop_foreign_nulls
from .tool_schemas import Tool, properties_of

_INDEX = re.compile(r"\[\d+\]")
_PLAIN = {"role", "content"}
_ROLES = {"system", "developer", "user", "assistant", "tool"}
_OTHER_NAMES = {
    "function": "tool", "ipython": "tool", "observation": "tool", "tool_response": "tool", "tool_result": "tool",
    "model": "assistant", "ai": "assistant", "bot": "assistant", "gpt": "assistant", "human": "user",
}  # fmt: skip
_KNOWN = {*BOOKKEEPING, *REASONING, "role", "content", "parts", "tool_calls", "function_call", "refusal", "is_error"}
_RESULT = {"tool_call_id", "tool_use_id", "call_id", "name", "tool_name", "function"}


class MessageReader:
    """Reads the messages of one rollout, in one or several pieces: prompt, then completion.

    - A call without an id gets one, a repeated id is made unique, and each result gets the id of the call it answers.
    - Content that is text alone becomes text; a content with an image or another part stays a list of parts, as JSON.
    - Arguments stay as the text they are; objects become text; empty, null and absent ones become `{}`.
    - Reasoning goes to `reasoning` from each of its names, a refusal becomes the text.

    Attributes:
        gaps: What is missing or was changed: no_call_ids, repeated_call_ids, results_without_calls, args_reserialized, content_reserialized,
            call_boundaries_inferred, server_calls, parts_reordered, errors_marked, surrogates_replaced, unknown_roles.
        unread: The values that no field took, by path: `messages[2].name`.
        token_calls: The model calls of Responses items that carry tokens, in order.
        untrained: Positions, among all messages that were read, of replies that are not to be learned from: `weight: 0`, `train: false`.
    """

    def __init__(self, gaps: set[str] | None = None, tools: list[Tool] | None = None, on_unknown: Note | None = None):
        """
        Args:
            gaps: A set to add to; None makes one.
            tools: In chat form. Nulls in object arguments that are keys of another tool are left out.
            on_unknown: Gets each key that no field takes and whose value is not empty; None keeps them in `unread`.
        """
        self.gaps: set[str] = set() if gaps is None else gaps
        self.unread: dict[str, Any] = {}
        self.token_calls: list[TokenCall] = []
        self.untrained: set[int] = set()
        self._n_read = 0
        self._notes = Notes(self.gaps, on_unknown or self.unread.__setitem__)
        self._properties = properties_of(tools or [])
        self._pairing = Pairing(self.gaps)

    def all_gaps(self) -> set[str]:
        """The gaps, and one for each key of `unread`, such as `unread:messages[].name`."""
        return self.gaps | {f"unread:{_INDEX.sub('[]', path)}" for path in self.unread}

    def read(self, value: Any, role: str = "user", where: str = "messages") -> list[Message]:
        """The messages of a value: a list of messages, of items or of content parts, one message, JSON text of these, or plain text.

        Args:
            role: The role of plain text and of a list of content parts.
            where: The path of the value, for errors and for `unread`.

        Raises SchemaMismatch, naming the path, for what is not of any dialect.
        """
        if isinstance(value, str):
            value = _listed(value) or [{"role": role, "content": value}]
        if isinstance(value, Message | Mapping):
            value = [value]
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise wrong(where, f"is a {type(value).__name__}, not a list of messages")
        value = [_decoded(one) for one in value]
        if value and all(_is_part(one) for one in value):
            value = [{"role": role, "content": value}]
        if any(is_item(one) for one in value):
            return self._paired(self._items(value, where))
        return self._messages(value, where)

    def read_one(self, message: Any, where: str = "message") -> list[Message]:
        """The messages that one message stands for: several where results of calls are parts of its content."""
        if isinstance(message, Message):
            return self._paired([message])
        if not isinstance(message, Mapping):
            raise wrong(where, f"is a {type(message).__name__}, not a message")
        return self._paired(self._message(message, where))

    def read_items(self, value: Sequence[Any], where: str = "output") -> list[Message]:
        """The messages of Responses items, also of a list that holds messages alone: those of the policy in a row are one model call."""
        return self._paired(self._items([_decoded(one) for one in value], where))

    def _items(self, value: Sequence[Any], where: str) -> list[MessageDraft]:
        items = Items(self._notes, self._message)
        drafts = items.read(value, where)
        self.token_calls += items.token_calls
        return drafts

    def _messages(self, value: Sequence[Any], where: str) -> list[Message]:
        drafts: list[MessageDraft | Message] = []
        for number, message in enumerate(value):
            path = f"{where}[{number}]"
            if isinstance(message, Message):
                drafts.append(message)
            elif isinstance(message, Mapping):
                drafts += self._message(message, path)
            else:
                raise wrong(path, f"is a {type(message).__name__}, not a message")
        return self._paired(drafts)

    def _paired(self, drafts: Sequence[MessageDraft | Message]) -> list[Message]:
        ours = [draft for draft in drafts if isinstance(draft, MessageDraft)]
        drop_foreign_nulls(ours, self._properties)
        reserved = {call.id for draft in ours for call in draft.calls if call.id is not None}
        found = []
        for position, draft in enumerate(drafts, start=self._n_read):
            if isinstance(draft, Message):
                self._pairing.seen(draft)
            elif draft.untrained:
                self.untrained.add(position)
            found.append(draft if isinstance(draft, Message) else self._pairing.message(draft, reserved))
        self._n_read += len(found)
        return found

    def _message(self, message: Mapping[str, Any], path: str) -> list[MessageDraft]:
        """One message as drafts; several where the results of calls are parts of its content."""
        role, content = self._role(message, path), message.get("content")
        if message.keys() <= _PLAIN and (content is None or isinstance(content, str)) and role != "tool":
            return [MessageDraft(role, None if content is None else self._notes.text(content))]
        if content is None:
            content = message.get("parts")
        drafts = read_content(content, role, f"{path}.content", self._notes)
        self._notes.leftovers(message, _KNOWN | (_RESULT if role == "tool" else set()), path)
        if role == "tool":
            return self._result(message, drafts, path)
        calls = self._calls(message, path)
        reasoning, refusal = self._reasoning(message, path), message.get("refusal")
        drafts = drafts or [MessageDraft(role)]
        if calls or isinstance(refusal, str):
            last = drafts[-1] if drafts[-1].role == role else MessageDraft(role)
            drafts += [] if last is drafts[-1] else [last]
            last.calls += calls
            if refusal:
                last.text = f"{last.text}\n{refusal}" if last.text else self._notes.text(refusal)
        if reasoning is not None and drafts[0].reasoning is None:
            drafts[0].reasoning = reasoning
        if role == "assistant" and _is_untrained(message):
            for draft in drafts:
                draft.untrained = draft.role == role
        return drafts

    def _role(self, message: Mapping[str, Any], path: str) -> str:
        role = message.get("role")
        if role is None:
            raise wrong(f"{path}.role", "is missing")
        if not isinstance(role, str):
            raise wrong(f"{path}.role", f"is {role!r}, not a string")
        if role not in _ROLES:
            role = _OTHER_NAMES.get(role, role)
            if role not in _ROLES:
                self.gaps.add("unknown_roles")
        return role

    def _result(self, message: Mapping[str, Any], drafts: list[MessageDraft], path: str) -> list[MessageDraft]:
        if drafts and all(draft.answers is not None or draft.tool is not None for draft in drafts):
            return drafts  # parts that name their calls themselves
        draft = drafts[0] if drafts else MessageDraft("tool")
        draft.answers, draft.tool = result_id(message, path), result_tool(message)
        if message.get("is_error") or message.get("status") == "error":
            mark_error(draft, self._notes)
        if not is_empty(message.get("tool_calls")):
            draft.calls = self._calls(message, path)
        reasoning = self._reasoning(message, path)
        draft.reasoning = reasoning if draft.reasoning is None else draft.reasoning
        return [draft]

    def _calls(self, message: Mapping[str, Any], path: str) -> list[Any]:
        calls = message.get("tool_calls")
        if isinstance(calls, str):
            calls = json_value(calls) if calls.strip() not in ("", "null") else None
            if calls is None and not is_empty(message.get("tool_calls")) and message["tool_calls"].strip() != "null":
                raise wrong(f"{path}.tool_calls", "is text that is not JSON")
        if isinstance(calls, Mapping):
            calls = [calls]
        if calls is not None and not isinstance(calls, list | tuple):
            raise wrong(f"{path}.tool_calls", f"is a {type(calls).__name__}, not a list of tool calls")
        found = [read_call(call, f"{path}.tool_calls[{number}]", self._notes) for number, call in enumerate(calls or ()) if not _is_unfilled(call)]  # fmt: skip
        legacy = message.get("function_call")
        legacy = json_value(legacy, "{") if isinstance(legacy, str) else legacy
        # Servers of today fill in both.
        if not is_empty(legacy) and not _is_unfilled(legacy) and not found:
            found.append(read_call(legacy, f"{path}.function_call", self._notes))
        return found

    def _reasoning(self, message: Mapping[str, Any], path: str) -> str | None:
        """The first of its names that holds words; another that holds different ones is noted."""
        found: str | None = None
        for name in REASONING:
            if message.get(name) is None:
                continue
            words = reasoning_text(message[name], f"{path}.{name}", self._notes)
            if found and words and words != found:
                self._notes.note(f"{path}.{name}", message[name])
            found = found or words
        return found


def read_messages(value: Any, gaps: set[str] | None = None, role: str = "user", on_unknown: Note | None = None, where: str = "messages") -> list[Message]:  # fmt: skip
    """The messages of a whole conversation, see `MessageReader`. Keys that no field takes are passed over without `on_unknown`."""
    return MessageReader(gaps, None, on_unknown).read(value, role, where)


def read_message(value: Any) -> Message:
    """One message of any dialect. Raises SchemaMismatch for what is not a message, and for one that stands for several (Anthropic's results)."""
    found = read_messages([value])
    if len(found) != 1:
        raise SchemaMismatch(f"The message stands for {len(found)} messages.", "Read it with read_messages.")
    return found[0]


def split_prompt(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """The prompt, and everything from the first assistant message on. Raises SchemaMismatch when there is none."""
    for index, message in enumerate(messages):
        if message.role == "assistant":
            return messages[:index], messages[index:]
    raise SchemaMismatch(
        "There is no assistant message.", "Add what the policy said, or give the prompt with prompt= or task= and messages=[]."
    )  # fmt: skip


def _listed(text: str) -> list[Any] | None:
    """The messages that a text holds as JSON; None for any other text."""
    found = json_value(text)
    found = [found] if isinstance(found, Mapping) else found
    is_one = isinstance(found, list) and bool(found) and all(map(_is_message, map(_decoded, found)))
    return found if is_one else None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and (isinstance(value.get("role"), str) or is_item(value))


def _is_unfilled(value: Any) -> bool:
    """Whether it is null, or an object in which everything is: a table writes that for a call that is not there."""
    return value is None or (isinstance(value, Mapping) and all(map(_is_unfilled, value.values())))


def _is_untrained(message: Mapping[str, Any]) -> bool:
    """Whether a reply is marked as one that is not to be learned from, in OpenAI's way or in that of other trainers."""
    weight = message.get("weight")
    return (weight is not None and weight in (0, "0")) or message.get("train") is False


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" not in value and value.get("type") in PARTS and not is_item(value)


def _decoded(value: Any) -> Any:
    """A message that is JSON text as what it holds."""
    if not isinstance(value, str):
        return value
    found = json_value(value, "{")
    return found if _is_message(found) else value


class MessageList:
    """The descriptor of a field that holds messages and takes messages of any dialect."""

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
        if not isinstance(value, list | tuple):
            raise SchemaMismatch(f"{self._name} is a {type(value).__name__}, not a list of messages.", "Give a list of messages.")  # fmt: skip
        gaps: set[str] = set()
        instance.__dict__[self._name] = read_messages(value, gaps, on_unknown=refuse_unknown, where=self._name)
        instance.__dict__["_read_gaps"] = gaps
