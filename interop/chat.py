"""OpenAI chat messages, as several formats hold them."""

import json
from collections.abc import Sequence
from typing import Any

from ..store.messages import Message, read_chat
from .responses import chat_tools
from .rollout import Row


def read_messages(messages: Sequence[Row], gaps: set[str]) -> list[Message]:
    """Chat messages; other keys than ours are passed over, the overlay keeps them. Raises SchemaMismatch for what is not a chat message."""
    return read_chat(messages, gaps, lambda path, value: None)


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
