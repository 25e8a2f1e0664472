"""OpenAI's fine-tuning files: `{"messages", "tools", "parallel_tool_calls"}` a line, the last message the assistant's.

Reasoning has no place there. Replies in a prompt are examples that the policy did not write: their weight is 0.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..store.messages import Message
from .lines import write_objects
from .parts import chat_part, converted
from .rollout import FileRollout, Row
from .values import read_json


def unfit(rollout: FileRollout) -> str | None:
    """Why the service would refuse the line: it ends with a reply, calls have JSON objects as arguments, each answered right after."""
    messages = [*rollout.prompt, *rollout.messages]
    if any(not isinstance(read_json(call.arguments), dict) for message in messages for call in message.tool_calls):
        return "arguments are not a JSON object"
    if not messages or messages[-1].role != "assistant":
        return "the last message is not the assistant's"
    for index, message in enumerate(messages):
        wanted = [call.id for call in message.tool_calls]
        given = [other.tool_call_id for other in messages[index + 1 : index + 1 + len(wanted)]]
        if sorted(wanted) != sorted(str(id) for id in given):
            return "a call has no answer"
    return None


def drops(rollout: FileRollout) -> list[str]:
    """Reasoning."""
    return ["messages.reasoning"] if any(message.reasoning for message in (*rollout.prompt, *rollout.messages)) else []


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a line for each rollout. There is no key of ours to leave out."""
    write_objects((line(rollout) for rollouts in episodes for rollout in rollouts), path)


def line(rollout: FileRollout) -> Row:
    """The line of one rollout."""
    rollout = converted(rollout, chat_part)
    examples = [_message(message) | ({"weight": 0} if message.role == "assistant" else {}) for message in rollout.prompt]  # fmt: skip
    told: Row = {"messages": [*examples, *(_message(message) for message in rollout.messages)]}
    if rollout.tools:
        told["tools"] = rollout.tools
        told["parallel_tool_calls"] = any(len(message.tool_calls) > 1 for message in rollout.messages)
    return told


def _message(message: Message) -> Row:
    told: dict[str, Any] = {name: value for name, value in message.to_openai().items() if name != "reasoning_content"}
    if message.role == "tool":
        told["content"] = message.text or message.parts or ""
    elif message.role == "assistant" and not message.tool_calls:
        told["content"] = told["content"] or ""
    return told
