"""Answers as server-sent events, for clients that stream. An engine samples a turn as a whole, so all events come at once when it is done."""

import json
from collections.abc import Iterator
from typing import Any

from .request import ModelRequest

Json = dict[str, Any]


def chat_events(parsed: ModelRequest, reply: Json) -> Iterator[bytes]:
    """A chat completion in chunks: the role, thinking, text, each call, then the finish reason with the tokens."""
    for choice in reply["choices"]:
        yield from _choice_events(reply, choice)
    yield from _closing(parsed, reply, "chat.completion.chunk")


def _choice_events(reply: Json, choice: Json) -> Iterator[bytes]:
    message = choice["message"]
    tokens = {name: reply[name] for name in ("prompt_token_ids",) if name in reply}
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    if message.get("reasoning_content"):
        deltas.append({"reasoning_content": message["reasoning_content"]})
    if message["content"]:
        deltas.append({"content": message["content"]})
    for index, call in enumerate(message.get("tool_calls", ())):
        kind, text = ("custom", "input") if call["type"] == "custom" else ("function", "arguments")
        deltas.append({"tool_calls": [{"index": index, **call, kind: {**call[kind], text: ""}}]})
        deltas.append({"tool_calls": [{"index": index, kind: {text: call[kind][text]}}]})
    for delta in deltas:
        yield _chunk(reply, {"index": choice["index"], "delta": delta, "logprobs": None, "finish_reason": None})
    end = {
        "index": choice["index"],
        "delta": {},
        "logprobs": choice["logprobs"],
        "finish_reason": choice["finish_reason"],
    }
    end |= {"token_ids": choice["token_ids"]} if "token_ids" in choice else {}
    yield _chunk(reply, end, tokens)


def completion_events(parsed: ModelRequest, reply: Json) -> Iterator[bytes]:
    """A text completion in one chunk."""
    yield _data({**{name: value for name, value in reply.items() if name != "usage"}})
    yield from _closing(parsed, reply, "text_completion")


def response_events(reply: Json) -> Iterator[bytes]:
    """A response of `/v1/responses`, item by item."""
    numbers = iter(range(1 << 30))

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\n".encode() + _data({"type": kind, "sequence_number": next(numbers), **fields})

    begun = {**reply, "status": "in_progress", "output": [], "usage": None}
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, item in enumerate(reply["output"]):
        place = {"item_id": item["id"], "output_index": index}
        yield event(
            "response.output_item.added", output_index=index, item={**item, "status": "in_progress"} | _emptied(item)
        )
        if item["type"] == "message":
            for number, part in enumerate(item["content"]):
                where = {**place, "content_index": number}
                yield event("response.content_part.added", **where, part={**part, "text": ""})
                yield event("response.output_text.delta", **where, delta=part["text"], logprobs=[])
                yield event("response.output_text.done", **where, text=part["text"], logprobs=[])
                yield event("response.content_part.done", **where, part=part)
        elif item["type"] == "function_call":
            yield event("response.function_call_arguments.delta", **place, delta=item["arguments"])
            yield event(
                "response.function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"]
            )
        elif item["type"] == "custom_tool_call":
            yield event("response.custom_tool_call_input.delta", **place, delta=item["input"])
            yield event("response.custom_tool_call_input.done", **place, input=item["input"])
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.incomplete" if reply["status"] == "incomplete" else "response.completed", response=reply)


def _emptied(item: Json) -> Json:
    empty = {
        "message": {"content": []},
        "function_call": {"arguments": ""},
        "custom_tool_call": {"input": ""},
        "reasoning": {"summary": []},
    }
    return empty[item["type"]]


def _chunk(reply: Json, choice: Json, more: Json | None = None) -> bytes:
    head = {name: reply[name] for name in ("id", "created", "model")}
    return _data({**head, "object": "chat.completion.chunk", "choices": [choice], **(more or {})})


def _closing(parsed: ModelRequest, reply: Json, kind: str) -> Iterator[bytes]:
    if parsed.stream_usage:
        head = {name: reply[name] for name in ("id", "created", "model")}
        yield _data({**head, "object": kind, "choices": [], "usage": reply["usage"]})
    yield b"data: [DONE]\n\n"


def _data(value: Json) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
