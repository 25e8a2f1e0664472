"""An answer of `/v1/responses` as events: the items one after the other, each in pieces."""

from collections.abc import Callable, Sequence
from typing import Any

from ..policies.turn_stream import Piece
from .answers import ModelAnswer
from .errors import ApiError
from .events import Choices, named
from .replies import Json
from .request import ModelRequest
from .tools import custom_text


class ResponseEvents:
    """Writes the events. `finished(answer)` is the whole response, whose items have the ids `KIND_ID_NUMBER` in order."""

    def __init__(self, parsed: ModelRequest, begun: Json, finished: Callable[[ModelAnswer], Json]) -> None:
        self._parsed, self._begun, self._finished = parsed, begun, finished
        self._given = Choices()
        self._number = -1
        self._items = 0
        self._open: Json | None = None
        self._text = ""

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return named(kind, {"sequence_number": self._number, **fields})

    def start(self) -> bytes:
        """The response in progress."""
        begun = self._event("response.created", response=self._begun)
        return begun + self._event("response.in_progress", response=self._begun)

    def pieces(self, choice: int, pieces: Sequence[Piece]) -> bytes:
        """Events of each piece."""
        return b"".join(self._piece(piece) for piece in self._given.of(choice).add(pieces))

    def _piece(self, piece: Piece) -> bytes:
        made = b""
        kind = {"reasoning": "reasoning", "text": "message"}.get(piece.kind, "function_call")
        if self._open is None or piece.kind == "call" or (self._open["type"] != kind and kind != "function_call"):
            made = self._close() + self._begin(kind, piece)
        assert self._open is not None
        if piece.kind == "call":
            return made
        self._text += piece.text
        if self._open["type"] == "custom_tool_call":
            return made  # its text is known at its end
        place = {"item_id": self._open["id"], "output_index": self._items - 1}
        if kind == "message":
            return made + self._event("response.output_text.delta", **place, content_index=0, delta=piece.text, logprobs=[])  # fmt: skip
        if kind == "reasoning":
            return made + self._event("response.reasoning_summary_text.delta", **place, summary_index=0, delta=piece.text)  # fmt: skip
        return made + self._event("response.function_call_arguments.delta", **place, delta=piece.text)

    def _begin(self, kind: str, piece: Piece) -> bytes:
        short = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        if kind == "message":
            item: Json = {"type": kind, "role": "assistant", "status": "in_progress", "content": []}
        elif kind == "reasoning":
            item = {"type": kind, "summary": [], "encrypted_content": None}
        elif piece.text in self._parsed.custom:
            short = "ctc"
            item = {"type": "custom_tool_call", "name": piece.text, "call_id": piece.id, "input": "", "status": "in_progress"}  # fmt: skip
        else:
            item = {"type": kind, "name": piece.text, "call_id": piece.id, "arguments": "", "status": "in_progress"}
        item["id"] = f"{short}_{self._begun['id'].removeprefix('resp-')}_{self._items}"
        self._open, self._text = item, ""
        self._items += 1
        made = self._event("response.output_item.added", output_index=self._items - 1, item=item)
        place = {"item_id": item["id"], "output_index": self._items - 1}
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            made += self._event("response.content_part.added", **place, content_index=0, part=part)
        elif kind == "reasoning":
            made += self._event("response.reasoning_summary_part.added", **place, summary_index=0, part={"type": "summary_text", "text": ""})  # fmt: skip
        return made

    def _close(self, whole: Json | None = None) -> bytes:
        """The end of the open item; `whole` is the item as it is in the whole response."""
        item, self._open = self._open, None
        if item is None:
            return b""
        place = {"item_id": item["id"], "output_index": self._items - 1}
        item, made = (whole or self._made(item)), b""
        if item["type"] == "message":
            part = item["content"][0] if item["content"] else {"type": "output_text", "text": "", "annotations": []}
            made = self._event("response.output_text.done", **place, content_index=0, text=part["text"], logprobs=[])
            made += self._event("response.content_part.done", **place, content_index=0, part=part)
        elif item["type"] == "reasoning":
            part = item["summary"][0]
            made = self._event("response.reasoning_summary_text.done", **place, summary_index=0, text=part["text"])
            made += self._event("response.reasoning_summary_part.done", **place, summary_index=0, part=part)
        elif item["type"] == "custom_tool_call":
            made = self._event("response.custom_tool_call_input.delta", **place, delta=item["input"])
            made += self._event("response.custom_tool_call_input.done", **place, input=item["input"])
        else:
            made = self._event("response.function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"])  # fmt: skip
        return made + self._event("response.output_item.done", output_index=self._items - 1, item=item)

    def _made(self, item: Json) -> Json:
        if item["type"] == "message":
            content = [{"type": "output_text", "text": self._text, "annotations": [], "logprobs": None}]
            return {**item, "status": "completed", "content": content}
        if item["type"] == "reasoning":
            return {**item, "summary": [{"type": "summary_text", "text": self._text}]}
        if item["type"] == "custom_tool_call":
            return {**item, "status": "completed", "input": custom_text(self._text)}
        return {**item, "status": "completed", "arguments": self._text}

    def end(self, answers: Sequence[ModelAnswer]) -> bytes:
        """The rest of the items, and the whole response."""
        reply = self._finished(answers[0])
        made = b"".join(map(self._piece, self._given.rest(0, answers[0])))
        last = reply["output"][self._items - 1] if 0 < self._items <= len(reply["output"]) else None
        made += self._close(last if self._open is not None and last is not None and last["type"] == self._open["type"] else None)  # fmt: skip
        while self._items < len(reply["output"]):  # an answer that is empty has one item too
            item = reply["output"][self._items]
            self._items += 1
            self._open = item
            made += self._event("response.output_item.added", output_index=self._items - 1, item=item)
            made += self._close(item)
        return made + self._event("response.incomplete" if reply["status"] == "incomplete" else "response.completed", response=reply)  # fmt: skip

    def failed(self, error: ApiError) -> bytes:
        """A failed response."""
        failure = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response={**self._begun, "status": "failed", "error": failure})
