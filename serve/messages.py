"""Anthropic's Messages API: requests read as chat requests, answers and errors in its form."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..policies.turn_stream import Piece
from ..store.messages import ToolCall
from .answers import ModelAnswer
from .bodies import Body
from .errors import ApiError, refused
from .events import Choices, named
from .fields import MESSAGES, given_fields
from .read_so_far import ReadSoFar
from .replies import Json, finish_reason, token_fields, usage
from .request import ModelRequest, listed, read_chat

# Fields with the same name and meaning in a chat request.
_SAME = ("model", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k", "seed", "stream", "metadata", "rollout_id", "return_token_ids", "chat_template_kwargs", "service_tier", "thinking")  # fmt: skip
_BROKEN = "invalid_json"
"""The one key of the input of a call whose arguments are not a JSON object."""
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 529: "overloaded_error"}  # fmt: skip


def read_message_request(body: Body, before: ReadSoFar | None = None) -> ModelRequest:
    """A body of `/v1/messages`; `before` as for `read_chat`. Raises ApiError that names the wrong field."""
    messages = listed(body, "messages")
    if not messages:
        raise refused("`messages` must be a list of at least one message.")
    system = _joined(body.get("system"))
    chat: Json = {name: body[name] for name in _SAME if body.get(name) is not None}
    head = [{"role": "system", "content": system}] if system else []
    chat["messages"] = [*head, *map(_plain, messages)]
    chat["stop"] = body.get("stop_sequences")
    output = body.get("output_config") or {}
    if not isinstance(output, dict):
        raise refused("`output_config` must be an object.")
    chat["response_format"] = _format(output.get("format") or body.get("output_format"))
    parsed = read_chat(chat, before)
    given = given_fields(body, MESSAGES)
    choice = body.get("tool_choice")
    single = isinstance(choice, dict) and choice.get("disable_parallel_tool_use")
    noted = [*(["output_config.effort"] if output.get("effort") else []), *(["tool_choice.disable_parallel_tool_use"] if single else [])]  # fmt: skip
    return replace(
        parsed,
        noted=(*given.noted, *noted, *(name for name in parsed.noted if name == "strict" or name.startswith("tools."))),
        refused=given.refused,
        show_tokens=bool(parsed.show_tokens),
    )


def _format(given: Any) -> Any:
    if isinstance(given, dict) and given.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {"schema": given.get("schema")}}
    return given


def _plain(message: Any) -> Any:
    """A message whose texts in a row are one, each on lines of its own, and whose calls have the arguments that the policy wrote."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    blocks: list[Any] = []
    for block in content:
        is_text = isinstance(block, Mapping) and block.get("type") == "text"
        if is_text and message.get("role") != "assistant" and blocks and isinstance(blocks[-1], dict) and blocks[-1].get("type") == "text":  # fmt: skip
            blocks[-1] = {**blocks[-1], "text": f"{blocks[-1].get('text')}\n{block.get('text')}"}
        else:
            blocks.append(_call(block) if isinstance(block, Mapping) else block)
    return {**message, "content": blocks}


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    given = block.get("input")
    if block.get("type") == "tool_use" and isinstance(given, Mapping) and given.keys() == {_BROKEN}:
        return {"type": "tool_use", "id": block.get("id"), "name": block.get("name"), "arguments": given[_BROKEN]}
    return dict(block)


def _joined(system: Any) -> str | None:
    """A system prompt: text, or blocks of text."""
    if system is None or isinstance(system, str):
        return system
    texts = [block.get("text") if isinstance(block, Mapping) else None for block in system] if isinstance(system, list) else [None]  # fmt: skip
    if not all(isinstance(text, str) for text in texts):
        raise refused("`system` must be a string or a list of text blocks.")
    return "\n".join(map(str, texts))


def message_head(model: str) -> Json:
    """A message before anything is sampled."""
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(0, 0),
    }


def message_reply(parsed: ModelRequest, answer: ModelAnswer, head: Json) -> Json:
    """The body of a message; `head` is it before anything is sampled."""
    content: list[Json] = []
    if answer.message.reasoning:
        content.append({"type": "thinking", "thinking": answer.message.reasoning, "signature": ""})
    if answer.message.text:
        content.append({"type": "text", "text": answer.message.text})
    content += [{"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in answer.message.tool_calls]  # fmt: skip
    tokens = token_fields(answer) if parsed.show_tokens and answer.token_ids is not None else {}
    return {**head, "content": content, **_ending(answer), "usage": _usage_of(answer), **tokens}


def _input(call: ToolCall) -> Json:
    try:
        return call.parsed()
    except (ValueError, RecursionError):
        return {_BROKEN: call.arguments}


def _ending(answer: ModelAnswer) -> Json:
    reasons = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}
    reason = "stop_sequence" if answer.stop_text is not None and not answer.message.tool_calls else reasons[finish_reason(answer)]  # fmt: skip
    return {"stop_reason": reason, "stop_sequence": answer.stop_text if reason == "stop_sequence" else None}


def _usage_of(answer: ModelAnswer) -> Json:
    counts = usage([answer])
    return _usage(counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0)


def _usage(prompt: int, sampled: int) -> Json:
    return {"input_tokens": prompt, "output_tokens": sampled, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}  # fmt: skip


def error_body(error: ApiError) -> Json:
    """The error as Anthropic's JSON."""
    kind = _KINDS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    # Clients look for these words to shorten a conversation.
    long = "prompt is too long: " if error.code == "context_length_exceeded" else ""
    return {"type": "error", "error": {"type": kind, "message": long + error.message, "code": error.code}}


class MessageEvents:
    """A message as events: its blocks one after the other, each in pieces."""

    def __init__(self, parsed: ModelRequest, model: str) -> None:
        self._parsed, self._head = parsed, message_head(model)
        self._given = Choices()
        self._block: str | None = None
        self._blocks = 0

    def start(self) -> bytes:
        """The message without content."""
        return named("message_start", {"message": self._head}) + named("ping", {})

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """Events of each piece."""
        return b"".join(map(self._piece, self._given.of(choice).add(pieces)))

    def _piece(self, piece: Piece) -> bytes:
        kind = {"reasoning": "thinking", "text": "text"}.get(piece.kind, "tool_use")
        made = b""
        if self._block is None or piece.kind == "call" or (kind != "tool_use" and self._block != kind):
            made = self._close() + self._begin(kind, piece)
        if piece.kind == "call":
            return made
        delta: Json = {"type": "input_json_delta", "partial_json": piece.text}
        if kind != "tool_use":
            delta = {"type": f"{kind}_delta", kind: piece.text}
        return made + named("content_block_delta", {"index": self._blocks - 1, "delta": delta})

    def _begin(self, kind: str, piece: Piece) -> bytes:
        blocks: dict[str, Json] = {
            "thinking": {"thinking": "", "signature": ""},
            "text": {"text": ""},
            "tool_use": {"id": piece.id, "name": piece.text, "input": {}},
        }
        self._block = kind
        self._blocks += 1
        return named(
            "content_block_start", {"index": self._blocks - 1, "content_block": {"type": kind, **blocks[kind]}}
        )

    def _close(self) -> bytes:
        open, self._block = self._block, None
        return b"" if open is None else named("content_block_stop", {"index": self._blocks - 1})

    def end(self, answers: Sequence[ModelAnswer]) -> bytes:
        """The rest of the blocks, the reason of the end, and the usage."""
        (answer,) = answers
        calls = answer.message.tool_calls
        pieces = self._given.rest(0, answer)
        # A client fails on arguments that are not JSON, so those of a call that has not begun are wrapped.
        begun = {piece.call for piece in pieces if piece.kind == "call"}
        pieces = [
            replace(piece, text=json.dumps(_input(calls[piece.call])))
            if piece.kind == "arguments" and piece.call in begun and _BROKEN in _input(calls[piece.call])
            else piece
            for piece in pieces
        ]
        made = b"".join(map(self._piece, pieces)) + self._close()
        return (
            made
            + named("message_delta", {"delta": _ending(answer), "usage": _usage_of(answer)})
            + named("message_stop", {})
        )

    def failed(self, error: ApiError) -> bytes:
        """As Anthropic's error."""
        return named("error", {"error": error_body(error)["error"]})
