"""OpenAI chat messages, as several formats hold them."""

import json
from collections.abc import Sequence
from typing import Any

from ..store.messages import Message, ToolCall
from .responses import chat_tools, first_unanswered
from .rollout import Row


def read_messages(messages: Sequence[Row], gaps: set[str]) -> list[Message]:
    """Chat messages as ours; call ids that are missing are made up (and results paired in order), which `gaps` then says.

    Raises KeyError, TypeError or ValueError for what is no message.
    """
    found: list[Message] = []
    n_calls = 0
    for message in messages:
        calls = []
        for call in message.get("tool_calls") or ():
            calls.append(_call(call, n_calls, gaps))
            n_calls += 1
        content = message.get("content")
        answered = message.get("tool_call_id")
        if message["role"] == "tool" and not answered:
            gaps.add("no_call_ids")
            answered = first_unanswered(found)
        found.append(
            Message(
                _text(message["role"]),
                content if isinstance(content, str) else None,
                tuple(calls),
                answered,
                message.get("reasoning_content"),
                None if content is None or isinstance(content, str) else json.dumps(content, ensure_ascii=False),
            )
        )
    return found


def read_conversation(value: Any, role: str, gaps: set[str]) -> list[Message]:
    """Messages, or one text, which is a message of `role`. A JSON text of messages is read as such."""
    if isinstance(value, str):
        return [Message(role, value)]
    return read_messages(value, gaps)


def split_prompt(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """What was asked, and everything from the first assistant message on. Raises ValueError when there is none."""
    for index, message in enumerate(messages):
        if message.role == "assistant":
            return messages[:index], messages[index:]
    raise ValueError("there is no assistant message")


def read_tools(tools: Any) -> list[Row]:
    """Tools in chat form: from chat form, from the flat form, from the name alone at the top level, or from JSON text of these."""
    listed = json.loads(tools) if isinstance(tools, str) else tools
    return chat_tools(list(listed or ()))


def _call(call: Row, number: int, gaps: set[str]) -> ToolCall:
    function = call.get("function") or call
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        gaps.add("args_reserialized")
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not call.get("id"):
        gaps.add("no_call_ids")
    return ToolCall(call.get("id") or f"call_{number}", _text(function["name"]), arguments)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
