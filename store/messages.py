"""Messages and tool calls as the store keeps them, and their OpenAI chat form."""

import json
from dataclasses import dataclass, field, replace
from typing import Any


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
