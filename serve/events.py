"""Answers of the OpenAI routes as server-sent events, piece by piece as they are sampled."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from ..policies.turn_stream import GivenOut, Piece
from .answers import ModelAnswer
from .errors import ApiError
from .replies import Json, Text, chat_choice, completion_reply, head, usage
from .request import ModelRequest
from .tools import custom_text


class EventWriter(Protocol):
    """The events of one answer or of several."""

    def start(self) -> bytes:
        """What comes before anything is sampled."""
        ...

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """Events of what was sampled."""
        ...

    def end(self, answers: Sequence[ModelAnswer]) -> bytes:
        """What is left of the answers, and the end."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """The end, where no answer came."""
        ...


class Choices:
    """What was given out of each of several answers."""

    def __init__(self) -> None:
        self._given: dict[int, GivenOut] = {}

    def of(self, choice: int) -> GivenOut:
        """What was given out of one."""
        return self._given.setdefault(choice, GivenOut())

    def rest(self, choice: int, answer: ModelAnswer) -> list[Piece]:
        """The pieces that are missing; none where the answer is not what was given out, which the row names."""
        try:
            return self.of(choice).rest(answer.message)
        except ValueError:
            return []


class ChatEvents:
    """A chat completion in chunks: the role, thinking, text, calls, then the finish reason with the tokens."""

    def __init__(self, parsed: ModelRequest, model: str, text: Text) -> None:
        self._parsed, self._text = parsed, text
        self._head = head("chatcmpl", "chat.completion.chunk", model)
        self._given = Choices()

    def start(self) -> bytes:
        """The role of each choice."""
        return b"".join(self._chunk(choice, {"role": "assistant", "content": ""}) for choice in range(self._parsed.n))

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """A chunk for each piece. The text of a custom tool comes at the end, since only then it is known."""
        return b"".join(self._piece(choice, piece) for piece in self._given.of(choice).add(pieces))

    def _piece(self, choice: int, piece: Piece) -> bytes:
        if piece.kind == "reasoning":
            return self._chunk(choice, {"reasoning_content": piece.text})
        if piece.kind == "text":
            return self._chunk(choice, {"content": piece.text})
        name = piece.text if piece.kind == "call" else self._given.of(choice).calls[piece.call][0]
        custom = name in self._parsed.custom
        if piece.kind == "call":
            kind, inner = ("custom", {"input": ""}) if custom else ("function", {"arguments": ""})
            call = {"index": piece.call, "id": piece.id, "type": kind, kind: {"name": name, **inner}}
            return self._chunk(choice, {"tool_calls": [call]})
        if custom:
            return b""
        return self._chunk(choice, {"tool_calls": [{"index": piece.call, "function": {"arguments": piece.text}}]})

    def end(self, answers: Sequence[ModelAnswer]) -> bytes:
        """The rest of each choice, its finish reason and tokens, and the usage."""
        made = []
        for number, answer in enumerate(answers):
            made.append(b"".join(self._piece(number, piece) for piece in self._given.rest(number, answer)))
            for index, call in enumerate(answer.message.tool_calls):
                if call.name in self._parsed.custom:
                    text = {"index": index, "custom": {"input": custom_text(call.arguments)}}
                    made.append(self._chunk(number, {"tool_calls": [text]}))
            choice = chat_choice(self._parsed, answer, self._text)
            tokens = {"token_ids": choice["token_ids"]} if "token_ids" in choice else {}
            more = {"prompt_token_ids": answer.prompt_ids} if tokens else {}
            made.append(self._chunk(number, {}, choice["logprobs"], choice["finish_reason"], tokens, more))
        return b"".join(made) + _closing(self._parsed, self._head, answers)

    def failed(self, error: ApiError) -> bytes:
        """As OpenAI's error."""
        return data(error.body())

    def _chunk(
        self,
        choice: int,
        delta: Json,
        logprobs: Json | None = None,
        reason: str | None = None,
        tokens: Json | None = None,
        more: Json | None = None,
    ) -> bytes:
        made = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **(tokens or {})}
        return data({**self._head, "choices": [made], **(more or {})})


class CompletionEvents:
    """A text completion in chunks."""

    def __init__(self, parsed: ModelRequest, model: str, text: Text) -> None:
        self._parsed, self._model, self._text = parsed, model, text
        self._head = head("cmpl", "text_completion", model)
        self._given = Choices()

    def start(self) -> bytes:
        """Nothing."""
        return b""

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """A chunk for each piece."""
        return b"".join(self._chunk(choice, piece.text) for piece in self._given.of(choice).add(pieces))

    def _chunk(self, choice: int, text: str) -> bytes:
        return data({**self._head, "choices": [{"index": choice, "text": text, "logprobs": None, "finish_reason": None}]})  # fmt: skip

    def end(self, answers: Sequence[ModelAnswer]) -> bytes:
        """The rest of each text with its finish reason and tokens, and the usage."""
        choices = completion_reply(self._parsed, answers, self._model, self._text)["choices"]
        made = []
        for number, (choice, answer) in enumerate(zip(choices, answers, strict=True)):
            rest = "".join(piece.text for piece in self._given.rest(number, answer))
            made.append(data({**self._head, "choices": [{**choice, "text": rest}]}))
        return b"".join(made) + _closing(self._parsed, self._head, answers)

    def failed(self, error: ApiError) -> bytes:
        """As OpenAI's error."""
        return data(error.body())


def _closing(parsed: ModelRequest, head: Json, answers: Sequence[ModelAnswer]) -> bytes:
    counts = data({**head, "choices": [], "usage": usage(answers)}) if parsed.stream_usage else b""
    return counts + b"data: [DONE]\n\n"


def data(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def named(name: str, value: Json) -> bytes:
    """One event with a name, which is its type."""
    return f"event: {name}\n".encode() + data({"type": name, **value})
