"""A turn in pieces while it is sampled: thinking, text, and calls with their arguments.

What is given out is always the beginning of what `ChatFormat.parse` makes of the whole turn. So everything that a later token could change is held back: the
beginning of a tag or a stop text, white space that may end a text, and all behind a call but the arguments of the calls.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..store.messages import Message
from .chat import ChatFormat
from .parsers import CLOSE, OPEN

_CALL = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class Piece:
    """A part of a turn.

    Attributes:
        kind: `call` begins a call, whose name is the text; `arguments` go on with it.
        call: Number of the call, from 0.
        id: Of a call.
    """

    kind: Literal["reasoning", "text", "call", "arguments"]
    text: str
    call: int = 0
    id: str = ""


@dataclass
class GivenOut:
    """What of a turn was given out."""

    reasoning: str = ""
    text: str = ""
    calls: list[list[str]] = field(default_factory=list)  # name, arguments

    def add(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Counts pieces, and returns them."""
        for piece in pieces:
            if piece.kind == "reasoning":
                self.reasoning += piece.text
            elif piece.kind == "text":
                self.text += piece.text
            elif piece.kind == "call":
                self.calls.append([piece.text, ""])
            else:
                self.calls[piece.call][1] += piece.text
        return list(pieces)

    def begins(self, message: Message) -> bool:
        """Whether a turn begins with what was given out."""
        if not ((message.reasoning or "").startswith(self.reasoning) and (message.text or "").startswith(self.text)):
            return False
        if len(self.calls) > len(message.tool_calls):
            return False
        return all(call.name == name and call.arguments.startswith(made) for call, (name, made) in zip(message.tool_calls, self.calls, strict=False))  # fmt: skip

    def rest(self, message: Message) -> list[Piece]:
        """The pieces that are missing to the whole turn. Raises ValueError when it does not begin with what was given out."""
        if not self.begins(message):
            raise ValueError("the turn does not begin with what was given out")
        reasoning, text = message.reasoning or "", message.text or ""
        pieces = [Piece("reasoning", reasoning[len(self.reasoning) :]), Piece("text", text[len(self.text) :])]
        for number, call in enumerate(message.tool_calls):
            known = number < len(self.calls)
            if not known:
                pieces.append(Piece("call", call.name, number, call.id))
            made = self.calls[number][1] if known else ""
            pieces.append(Piece("arguments", call.arguments[len(made) :], number, call.id))
        return self.add([piece for piece in pieces if piece.text])


class TurnStream:
    """Reads one turn as its tokens come.

    Attributes:
        given: What was given out so far.
        stopped: Whether a stop text was completed; nothing more comes.
    """

    def __init__(
        self,
        chat: ChatFormat,
        opened: bool,
        read_calls: bool,
        stops: Sequence[str] = (),
        first_call: int = 0,
        plain: bool = False,
    ) -> None:
        """
        Args:
            opened: Whether the prompt ends in an opened thinking.
            first_call: Number of the first call's id.
            plain: All of it is text, thinking too.
        """
        self.given = GivenOut()
        self.stopped = False
        self._chat, self._stops, self._first_call = chat, stops, first_call
        self._held_back = max(map(len, stops), default=1) - 1
        self._openings = chat.call_openings if read_calls else ()
        self._ids: list[int] = []
        self._decoded = self._read = 0  # ids before which nothing is decoded again, and ids whose text is known
        self._raw = ""
        self._opened = opened
        self._thinking: bool | None = False if plain else None
        self._at = 0  # where in the raw text the next piece begins
        self._skips = False  # line ends behind the thinking belong to nothing
        self._call_at: int | None = None
        self._scan: _Braces | None = None

    def feed(self, token_ids: Sequence[int]) -> list[Piece]:
        """The pieces that these tokens complete."""
        if self.stopped:
            return []
        self._ids += [token for token in token_ids if token not in self._chat.stop_token_ids]
        self._decode()
        end = len(self._raw)
        found = [at for at in (self._raw.find(stop) for stop in self._stops) if at >= 0]
        if found:
            end, self.stopped = min(found), True
        return self.given.add(self._pieces(end if self.stopped else max(0, end - self._held_back)))

    def _decode(self) -> None:
        known = self._chat.text_of(self._ids[self._decoded : self._read])
        whole = self._chat.text_of(self._ids[self._decoded :])
        if whole.endswith("�") or len(whole) <= len(known):
            return  # half of a character
        self._raw += whole[len(known) :]
        self._decoded, self._read = self._read, len(self._ids)

    def _pieces(self, end: int) -> list[Piece]:
        pieces: list[Piece] = []
        if self._thinking is None:
            self._begin(end)
        if self._thinking:
            pieces += self._think(end)
        if self._thinking is False:
            pieces += self._call(end) if self._call_at is not None else self._say(end)
        return [piece for piece in pieces if piece.text]

    def _begin(self, end: int) -> None:
        """Settles whether the turn begins with thinking."""
        start = self._raw[:end].lstrip()
        if start.startswith(OPEN):
            self._thinking, self._at = True, self._raw.index(OPEN) + len(OPEN)
        elif start and not OPEN.startswith(start):
            self._thinking = self._opened

    def _think(self, end: int) -> list[Piece]:
        close = self._raw.find(CLOSE, self._at, end)
        upto = close if close >= 0 else _before(self._raw, self._at, end, (CLOSE,))
        text = self._raw[self._at : upto]
        if not self.given.reasoning:
            text = text.lstrip("\n")
        kept = text.rstrip("\n")  # line ends may be the last
        start = upto - len(text)
        self._at = start + len(kept) if close < 0 else close + len(CLOSE)
        if close >= 0:
            self._thinking = False
            self._skips = True
        return [Piece("reasoning", kept)]

    def _say(self, end: int) -> list[Piece]:
        if self._skips:
            while self._at < end and self._raw[self._at] == "\n":
                self._at += 1
            if self._at == end:
                return []
            self._skips = False
        if self._openings is None:
            return []  # the parser is not known to begin calls with a tag
        if self._openings and not self.given.text and self._raw[self._at : self._at + 1].isspace():
            return []  # white space before a call is no text, white space before a text is
        found = [at for at in (self._raw.find(tag, self._at, end) for tag in self._openings) if at >= 0]
        upto = min(found) if found else _before(self._raw, self._at, end, self._openings)
        text = self._raw[self._at : upto]
        kept = text.rstrip() if self._openings else text
        self._at += len(kept)
        if found:
            self._call_at = upto
            return [Piece("text", kept), *self._call(end)]
        return [Piece("text", kept)]

    def _call(self, end: int) -> list[Piece]:
        pieces: list[Piece] = []
        opening = self._openings[0] if self._openings else ""
        while self._call_at is not None and opening == "<tool_call>":
            if self._scan is None:
                start = self._raw.find(opening, self._call_at, end)
                found = _CALL.match(self._raw, start + len(opening), end) if start >= 0 else None
                if found is None or found.end() >= end:
                    break
                number = len(self.given.calls) + sum(piece.kind == "call" for piece in pieces)
                pieces.append(Piece("call", found[1], number, f"call_{self._first_call + number}"))
                self._scan, self._at = _Braces(number), found.end()
            upto, done = self._scan.upto(self._raw, self._at, end)
            pieces.append(Piece("arguments", self._raw[self._at : upto], self._scan.call, f"call_{self._first_call + self._scan.call}"))  # fmt: skip
            self._at = upto
            if not done:
                break
            self._scan, self._call_at = None, upto
        return pieces


class _Braces:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self, call: int) -> None:
        self.call = call
        self._depth = 0
        self._inside = self._escaped = False

    def upto(self, text: str, start: int, end: int) -> tuple[int, bool]:
        """How far the object reaches in the text, and whether that is its end."""
        for at in range(start, end):
            sign = text[at]
            if self._escaped:
                self._escaped = False
            elif self._inside:
                self._escaped = sign == "\\"
                self._inside = sign != '"'
            elif sign == '"':
                self._inside = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1, True
        return end, False


def _before(text: str, start: int, end: int, tags: Sequence[str]) -> int:
    """The end of the text without what may be the beginning of a tag."""
    longest = max(map(len, tags), default=0)
    for at in range(max(start, end - longest + 1), end):
        if any(tag.startswith(text[at:end]) for tag in tags):
            return at
    return end
