"""OpenAI Responses items: the inner format of NeMo Gym's files."""

import json
from collections.abc import Iterable
from typing import Any

from ..store.messages import Message


def prompt_messages(input_items: str | list[dict[str, Any]]) -> list[Message]:
    """The `input` of a request as messages; a string is one user message.

    Raises ValueError for an item that is no message (a conversation that already holds calls is no prompt of ours).
    """
    if isinstance(input_items, str):
        return [Message("user", input_items)]
    return [_prompt_message(item) for item in input_items]


def _prompt_message(item: dict[str, Any]) -> Message:
    if item.get("type", "message") != "message":
        raise ValueError(f"an input item is a {item['type']}, not a message")
    content = item["content"]
    if isinstance(content, list):
        text = plain_text(content)
        return Message(item["role"], text, parts=None if text is not None else json.dumps(content, ensure_ascii=False))
    return Message(item["role"], content)


def plain_text(parts: Iterable[dict[str, Any]]) -> str | None:
    """The joined text of content parts, None when one of them is something else (an image, a file)."""
    texts = [part.get("text") for part in parts]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


def chat_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flat Responses tools in OpenAI chat form; tools already in chat form stay."""
    return [
        tool if "function" in tool else {"type": tool.get("type", "function"), "function": _function(tool)}
        for tool in tools
    ]  # fmt: skip


def flat_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chat tools in the flat Responses form: the inverse of `chat_tools`."""
    return [{"type": tool["type"], **tool["function"]} for tool in tools]


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tool.items() if key != "type"}
