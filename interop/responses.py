"""Messages as OpenAI Responses items: the inner format of NeMo Gym's files. `store.reading` reads them.

A message becomes its reasoning, its text, then its calls. Tools have their name at the top level here and under `function` in chat.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ..store.items import TokenCall
from ..store.messages import Message

_TOKEN_KEYS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")

Item = dict[str, Any]


def flat_tools(tools: Iterable[Item]) -> list[Item]:
    """Chat tools in the flat form."""
    return [{"type": tool.get("type", "function"), **tool["function"]} for tool in tools]


def input_items(messages: Iterable[Message]) -> list[Item]:
    """A prompt as the `input` of a request; calls, results and reasoning in it are items of their own."""
    items: list[Item] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            items.append({"call_id": message.tool_call_id, "output": _parts(message), "type": "function_call_output"})
        elif message.role == "assistant" and (message.tool_calls or message.reasoning is not None):
            items += _call_items(message, index)
        else:
            items.append({"role": message.role, "content": _parts(message), "type": "message"})
    return items


def output_items(messages: Sequence[Message], token_calls: Sequence[TokenCall] | None = None) -> list[Item]:
    """Messages after the prompt as output items.

    Args:
        token_calls: Parallel to the assistant messages; each one's tokens go on the last item of its message. None for no tokens.
    """
    items: list[Item] = []
    calls = iter(token_calls or ())
    for index, message in enumerate(messages):
        if message.role == "tool":
            answer = {"call_id": message.tool_call_id, "output": _parts(message), "type": "function_call_output"}
            items.append({**answer, "id": None, "status": None})
        elif message.role != "assistant":
            items += input_items([message])
        else:
            items += _call_items(message, index)
            if (call := next(calls, None)) is not None:
                values = (call.prompt, call.generation, call.logprobs)
                items[-1] |= {**dict(zip(_TOKEN_KEYS, values, strict=True)), "routed_experts": None}
    return items


def _call_items(message: Message, index: int) -> list[Item]:
    items: list[Item] = []
    if message.reasoning is not None:
        summary = [{"type": "summary_text", "text": message.reasoning}]
        items.append({"id": f"rs_{index}", "summary": summary, "type": "reasoning", "encrypted_content": None})
    # A message without text, calls and reasoning is written as an empty one.
    if message.text is not None or message.parts or not (message.tool_calls or items):
        parts = json.loads(message.parts) if message.parts else []
        if message.text is not None:
            parts = [{"annotations": [], "text": message.text, "type": "output_text", "logprobs": None}]
        items.append({"id": f"msg_{index}", "content": parts, "role": "assistant", "status": "completed", "type": "message"})  # fmt: skip
    for number, call in enumerate(message.tool_calls):
        item = {"arguments": call.arguments, "call_id": call.id, "name": call.name, "type": "function_call"}
        items.append({**item, "id": f"fc_{index}_{number}", "status": "completed"})
    return items


def _parts(message: Message) -> Any:
    return json.loads(message.parts) if message.parts else message.text
