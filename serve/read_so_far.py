"""The messages of a request, read as far as they are those of the request before it: clients send the whole conversation with each call."""

import hashlib
import marshal
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..base.errors import SchemaMismatch
from ..store.ids import canonical_json
from ..store.messages import Message
from ..store.reading import MessageReader
from .bounds import MAX_IDS, refuse_many
from .errors import refused
from .tools import RequestTools, function_calls, read_request_tools

_ROLES = {"developer": "system", "function": "tool", **{role: role for role in ("system", "user", "assistant", "tool")}}
_INDEX = re.compile(r"\[\d+\]")
# What servers add to a turn and clients send back with it.
_ECHOED = {"prompt_token_ids", "generation_token_ids", "generation_log_probs", "annotations", "audio", "cache_control", "phase", "signature", "caller", "citations"}  # fmt: skip
_VERSION = 2  # of marshal's format: the newest that writes equal values alike, whatever objects they are
_LIST_HEADER = 5  # bytes before the first item
_MOST_KEPT = 4 << 20
_MOST_TOOLS, _KEPT_TOOLS = 256 << 10, 64


@dataclass(frozen=True)
class Prefix:
    """Tokens that a message of the request carries: prompt and sampled tokens up to and including that message.

    `length` is the number of messages that they stand for.
    """

    token_ids: list[int]
    length: int


class ReadSoFar:
    """The messages of one request, and how to go on with those of the next one that begins with them.

    One request at a time owns it: `go_on` changes it. A request whose messages begin otherwise needs a new one.
    """

    def __init__(self) -> None:
        self._reader = MessageReader()
        self._messages: list[Message] = []
        self._given = b""
        self._carried: Prefix | None = None
        self._last_turn: int | None = None
        self._count = 0
        self._hash, self._hashed = hashlib.sha256(), 0

    @staticmethod
    def of(given: list[Any], before: "ReadSoFar | None" = None) -> "ReadSoFar":
        """A request's messages, which must not be empty. Raises ApiError that names the wrong one.

        Args:
            before: What was read of the conversation's last request. It is used up.
        """
        # Equal bytes are equal values with equal keys in equal order, and a list's items follow each other; so the beginning is the same JSON.
        raw = marshal.dumps(given, _VERSION)
        known = before is not None and raw.startswith(before._given, _LIST_HEADER)
        found = before if before is not None and known else ReadSoFar()
        found._read_on(given)
        found._given = raw[_LIST_HEADER:]
        return found

    @property
    def messages(self) -> tuple[Message, ...]:
        """All of them."""
        return tuple(self._messages)

    @property
    def gaps(self) -> list[str]:
        """A gap for each kind of field that no message took."""
        return unread_gaps(self._reader)

    @property
    def digest(self) -> str:
        """A hash of the messages."""
        for message in self._messages[self._hashed :]:
            self._hash.update(canonical_json(message.to_row()).encode())
        self._hashed = len(self._messages)
        return self._hash.hexdigest()

    @property
    def is_small(self) -> bool:
        """Whether it may be kept for the next request."""
        return len(self._given) <= _MOST_KEPT

    def carried(self, required: Any) -> Prefix | None:
        """The tokens that the request requires (`required_prefix_token_ids`), else those of the latest message that carries some. Raises ApiError."""
        refuse_many(required, MAX_IDS, "required_prefix_token_ids")
        if is_ids(required) and required and self._last_turn is not None:
            return Prefix(required, self._last_turn)
        return self._carried

    def _read_on(self, given: list[Any]) -> None:
        turns: list[tuple[int, int]] = []
        for number in range(self._count, len(given)):
            message = self._read_one(given[number], f"messages[{number}]")
            if message == "assistant":
                turns.append((number, len(self._messages)))
        self._count = len(given)
        if turns:
            self._last_turn = turns[-1][1]
        found = (carried_tokens(given[number], end) for number, end in reversed(turns))
        self._carried = next((prefix for prefix in found if prefix is not None), self._carried)

    def _read_one(self, given: Any, where: str) -> str:
        """Reads one message and returns the role that it has in the request."""
        role = given.get("role") if isinstance(given, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise refused(f"`{where}` needs a role: {', '.join(_ROLES)}.")
        plain = {name: value for name, value in given.items() if name not in _ECHOED} | {"role": _ROLES[role]}
        try:
            read = self._reader.read_one(function_calls(plain), where)
        except SchemaMismatch as error:
            raise refused(f"A message cannot be read: {error.message}") from error
        self._messages += read
        return role


def unread_gaps(reader: MessageReader) -> list[str]:
    """A gap for each kind of field that no message took, such as `unread:messages[].name`."""
    if not reader.unread:
        return []
    paths = (path for path in reader.unread if path.rsplit(".", 1)[-1] not in _ECHOED)
    return sorted({f"unread:{_INDEX.sub('[]', path)}" for path in paths})


def carried_tokens(holder: Mapping[str, Any], length: int) -> Prefix | None:
    """The tokens that a message or an item carries; None for none. Raises ApiError when they are not token ids."""
    prompt, generation = holder.get("prompt_token_ids"), holder.get("generation_token_ids")
    refuse_many(prompt, MAX_IDS, "prompt_token_ids")
    refuse_many(generation, MAX_IDS, "generation_token_ids")
    if not prompt or not generation:
        return None
    if not is_ids(prompt) or not is_ids(generation):
        raise refused("`prompt_token_ids` and `generation_token_ids` must be lists of token ids.")
    return Prefix(prompt + generation, length)


def is_ids(value: Any) -> bool:
    """Whether it is a list of token ids."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**31 for item in value)


def tools_of(given: list[Any]) -> RequestTools:
    """A request's tools. Equal ones are one object, since every call of every rollout has them. Raises ApiError."""
    raw = marshal.dumps(given, _VERSION)
    return _kept_tools(raw) if len(raw) <= _MOST_TOOLS else read_request_tools(given)


@lru_cache(_KEPT_TOOLS)
def _kept_tools(raw: bytes) -> RequestTools:
    return read_request_tools(marshal.loads(raw))
