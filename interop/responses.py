"""OpenAI Responses items: the inner format of NeMo Gym's files.

One model call gives several items (reasoning, text, calls); the store keeps one assistant message for it. The other way, a message becomes
its reasoning, its text, then its calls. Tools have their name at the top level here and under `function` in chat.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..store.messages import Message, ToolCall, first_unanswered
from .tokens import TokenCall

_TOKEN_KEYS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")

Item = dict[str, Any]


@dataclass
class Transcript:
    """What followed the prompt.

    Attributes:
        messages: Assistant and tool messages, in order.
        token_calls: The calls that carry tokens, in order.
        gaps: What the items do not tell: no_call_ids, call_boundaries_inferred, args_reserialized.
    """

    messages: list[Message] = field(default_factory=list)
    token_calls: list[TokenCall] = field(default_factory=list)
    gaps: set[str] = field(default_factory=set)


def read_items(items: Sequence[Item]) -> Transcript:
    """Output items as messages. A model call ends at the item that carries its tokens, else at a tool output or at the end.

    Raises KeyError, TypeError or ValueError for items that are not of the format.
    """
    transcript = Transcript()
    pending: list[Item] = []
    for item in items:
        if _type(item) == "function_call_output":
            _close_call(transcript, pending)
            _add_output(transcript, item)
        elif _type(item) == "message" and item.get("role", "assistant") != "assistant":
            _close_call(transcript, pending)
            transcript.messages.append(_prompt_message(item))
        else:
            pending.append(item)
            if item.get("generation_token_ids"):
                _close_call(transcript, pending)
    _close_call(transcript, pending)
    return transcript


def _close_call(transcript: Transcript, pending: list[Item]) -> None:
    """Turns the items of one model call into one assistant message, and empties `pending`."""
    if not pending:
        return
    texts, reasoning, calls = [], [], []
    for item in pending:
        if _type(item) == "message":
            texts.append(_text(item.get("content")))
        elif _type(item) == "reasoning":
            reasoning.append(_text(item.get("summary")) or "")
        else:
            calls.append(_tool_call(transcript, item, len(calls)))
    last = pending[-1]
    if last.get("generation_token_ids"):
        prompt, generation, logprobs = (list(last.get(key) or []) for key in _TOKEN_KEYS)
        transcript.token_calls.append(TokenCall(prompt, generation, logprobs))
    elif len(pending) > 1:
        transcript.gaps.add("call_boundaries_inferred")
    said = [text for text in texts if text is not None]
    message = Message(
        "assistant",
        "".join(said) if said else None,
        tuple(calls),
        reasoning="\n".join(reasoning) if reasoning else None,
    )
    transcript.messages.append(message)
    pending.clear()


def _tool_call(transcript: Transcript, item: Item, earlier: int) -> ToolCall:
    call_id = item.get("call_id")
    if not call_id:
        transcript.gaps.add("no_call_ids")
        call_id = f"call_{earlier + sum(len(message.tool_calls) for message in transcript.messages)}"
    arguments = item["arguments"]
    if not isinstance(arguments, str):
        transcript.gaps.add("args_reserialized")
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(call_id, item["name"], arguments)


def _add_output(transcript: Transcript, item: Item) -> None:
    call_id = item.get("call_id")
    if not call_id:
        transcript.gaps.add("no_call_ids")
        call_id = first_unanswered(transcript.messages)
    output = item["output"]
    text = output if isinstance(output, str) else None
    parts = None if text is not None or output is None else json.dumps(output, ensure_ascii=False)
    transcript.messages.append(Message("tool", text, tool_call_id=call_id, parts=parts))


def _text(content: str | list[Item] | None) -> str | None:
    """The joined text of an assistant's parts; None when there are none."""
    if content is None or isinstance(content, str):
        return content
    texts = [part["text"] if isinstance(part.get("text"), str) else "" for part in content]
    return "".join(texts) if texts else None


def _type(item: Item) -> str:
    """The item's type; older files leave it out."""
    if "type" in item:
        return item["type"]
    if "arguments" in item:
        return "function_call"
    if "summary" in item:
        return "reasoning"
    return "function_call_output" if "output" in item else "message"


def prompt_messages(input_items: str | list[Item]) -> list[Message]:
    """The `input` of a request as messages; a string is one user message.

    Raises ValueError for an item that is no message (a conversation that already holds calls is no prompt of ours).
    """
    if isinstance(input_items, str):
        return [Message("user", input_items)]
    return [_prompt_message(item) for item in input_items]


def _prompt_message(item: Item) -> Message:
    if item.get("type", "message") != "message":
        raise ValueError(f"an input item is a {item['type']}, not a message")
    content = item["content"]
    if isinstance(content, list):
        text = plain_text(content)
        return Message(item["role"], text, parts=None if text is not None else json.dumps(content, ensure_ascii=False))
    return Message(item["role"], content)


def plain_text(parts: Iterable[Item]) -> str | None:
    """The joined text of content parts, None when one of them is something else (an image, a file)."""
    texts = [part.get("text") for part in parts]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


def chat_tools(tools: list[Item]) -> list[Item]:
    """Flat Responses tools in OpenAI chat form; tools already in chat form stay."""
    return [
        tool if "function" in tool else
        {"type": tool.get("type", "function"), "function": {name: value for name, value in tool.items() if name != "type"}}
        for tool in tools
    ]  # fmt: skip


def flat_tools(tools: Iterable[Item]) -> list[Item]:
    """Chat tools in the flat form."""
    return [{"type": tool.get("type", "function"), **tool["function"]} for tool in tools]


def input_items(messages: Iterable[Message]) -> list[Item]:
    """A prompt as the `input` of a request."""
    return [{"role": message.role, "content": _parts(message), "type": "message"} for message in messages]


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
    # A message that says nothing at all still is one.
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
