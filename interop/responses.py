"""OpenAI Responses items: the inner format of NeMo Gym's files.

One model call gives several items (reasoning, text, calls); the store keeps one assistant message for it. What a message
cannot hold (item ids, statuses, annotations) is returned as the item's *rest*, so that nothing is lost.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..store.messages import Message, ToolCall
from .tokens import TokenCall

_TOKEN_KEYS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")

Item = dict[str, Any]


@dataclass
class Transcript:
    """What followed the prompt.

    Attributes:
        messages: Assistant and tool messages, in order.
        n_calls: Model calls.
        token_calls: The calls that carry tokens, in order.
        rests: Parallel to the items: what `messages` does not hold, and `node`, the index of the item's message.
        gaps: What the items do not tell: no_call_ids, call_boundaries_inferred.
    """

    messages: list[Message] = field(default_factory=list)
    n_calls: int = 0
    token_calls: list[TokenCall] = field(default_factory=list)
    rests: list[Item] = field(default_factory=list)
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
            transcript.rests.append({"node": len(transcript.messages) - 1, **_without(item, "role", "content")})
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
        rest = {"node": len(transcript.messages)}
        if _type(item) == "message":
            texts.append(_take_text(item, "content", rest))
        elif _type(item) == "reasoning":
            reasoning.append(_take_text(item, "summary", rest))
        else:
            calls.append(_tool_call(transcript, item, len(calls)))
            rest |= _without(item, "call_id", "name", "arguments")
        transcript.rests.append(rest)
    last = pending[-1]
    if last.get("generation_token_ids"):
        prompt, generation, logprobs = (list(last.get(key) or []) for key in _TOKEN_KEYS)
        transcript.token_calls.append(TokenCall(prompt, generation, logprobs))
        transcript.rests[-1]["generated"] = len(generation)
    elif len(pending) > 1:
        transcript.gaps.add("call_boundaries_inferred")
    message = Message(
        "assistant",
        "".join(texts) if texts else None,
        tuple(calls),
        reasoning="\n".join(reasoning) if reasoning else None,
    )
    transcript.messages.append(message)
    transcript.n_calls += 1
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
        call_id = _first_unanswered(transcript.messages)
    output = item["output"]
    text = output if isinstance(output, str) else None
    parts = None if text is not None else json.dumps(output, ensure_ascii=False)
    transcript.messages.append(Message("tool", text, tool_call_id=call_id, parts=parts))
    transcript.rests.append({"node": len(transcript.messages) - 1, **_without(item, "call_id", "output")})


def _first_unanswered(messages: list[Message]) -> str | None:
    answered = {message.tool_call_id for message in messages}
    asked = [call.id for message in messages for call in message.tool_calls]
    return next((call_id for call_id in asked if call_id not in answered), None)


def _take_text(item: Item, key: str, rest: Item) -> str:
    """The text of an item's parts; what the parts hold besides goes to `rest` (with each one's length, when there are several)."""
    rest |= _without(item, key, "role")
    content = item.get(key)
    if isinstance(content, str):
        rest["plain"] = True
        return content
    parts = content or []
    texts = [part["text"] if isinstance(part.get("text"), str) else "" for part in parts]
    rest[key] = [
        {name: value for name, value in part.items() if name != "text"} | ({"chars": len(text)} if len(parts) > 1 else {})
        for part, text in zip(parts, texts, strict=True)
    ]  # fmt: skip
    return "".join(texts)


def _without(item: Item, *keys: str) -> Item:
    return {key: value for key, value in item.items() if key not in keys and key not in _TOKEN_KEYS}


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
        tool if "function" in tool else {"type": tool.get("type", "function"), "function": _without(tool, "type")}
        for tool in tools
    ]
