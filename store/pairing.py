"""Which result answers which call: ids are made unique within a rollout, and every result gets the id of its call.

A result belongs to the latest call before it that has its id; without an id, to the first unanswered call of the tool it names, else to the first
unanswered call, of the latest turn where that has one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .content import CallDraft, MessageDraft, json_text
from .messages import Message, ToolCall


@dataclass(slots=True)
class _Open:
    """A call that can be answered."""

    given: str | None
    id: str
    name: str
    turn: int
    answered: bool = False


class Pairing:
    """The calls of one rollout so far. Drafts come in the order of the conversation."""

    def __init__(self, gaps: set[str]) -> None:
        self._gaps = gaps
        self._calls: list[_Open] = []
        self._ids: set[str] = set()
        # Assistant messages in a row are one turn: their calls wait for results together.
        self._turn, self._last_role = 0, ""

    def seen(self, message: Message) -> None:
        """Takes a message that is one already."""
        self._take_turn(message.role)
        for call in message.tool_calls:
            self._ids.add(call.id)
            self._calls.append(_Open(call.id, call.id, call.name, self._turn))
        if message.role == "tool":
            for call in self._calls:
                call.answered = call.answered or call.id == message.tool_call_id

    def message(self, draft: MessageDraft, reserved: set[str]) -> Message:
        """The message of a draft. `reserved` are ids that other calls of the conversation have, which no made-up id may be."""
        self._take_turn(draft.role)
        parts = None if draft.parts is None else json_text(draft.parts)
        answers = self._answered(draft) if draft.role == "tool" else draft.answers
        calls = tuple(self._call(call, reserved) for call in draft.calls)
        return Message(draft.role, draft.text, calls, answers, parts=parts, reasoning=draft.reasoning)

    def _take_turn(self, role: str) -> None:
        self._turn += role == "assistant" and self._last_role != "assistant"
        self._last_role = role

    def _call(self, call: CallDraft, reserved: set[str]) -> ToolCall:
        id = call.id
        if id is None:
            self._gaps.add("no_call_ids")
            id = _free(f"call_{len(self._calls)}", self._ids | reserved)
        elif id in self._ids:
            self._gaps.add("repeated_call_ids")
            id = _free(id, self._ids | reserved)
        self._ids.add(id)
        self._calls.append(_Open(call.id, id, call.name, self._turn))
        arguments = call.arguments if isinstance(call.arguments, str) else json_text(call.arguments)
        return ToolCall(id, call.name, arguments)

    def _answered(self, draft: MessageDraft) -> str | None:
        call = self._by_id(draft.answers) if draft.answers is not None else None
        if call is None:
            unnamed = draft.answers is None
            # An id that no call has can only belong to a call without one.
            waiting = [call for call in self._calls if not call.answered and (unnamed or call.given is None)]
            named = [call for call in waiting if call.name == draft.tool]
            latest = [call for call in waiting if call.turn == self._turn]
            both = [call for call in named if call.turn == self._turn]
            call = next(iter(both or named or latest or waiting), None)
            if unnamed:
                self._gaps.add("no_call_ids")
        if call is None:
            self._gaps.add("results_without_calls")
            return draft.answers
        call.answered = True
        return call.id

    def _by_id(self, id: str) -> _Open | None:
        """The first unanswered call of the latest turn that has the id, else the latest call that has it."""
        found = [call for call in self._calls if call.given == id]
        waiting = [call for call in found if not call.answered]
        if waiting:
            return next(call for call in waiting if call.turn == waiting[-1].turn)
        return found[-1] if found else None


def _free(id: str, taken: set[str]) -> str:
    """The id, or the first of `id_2`, `id_3`, … that is free."""
    number, found = 1, id
    while found in taken:
        number += 1
        found = f"{id}_{number}"
    return found


def unique_ids(message: Message, before: Iterable[Message]) -> Message:
    """The message with ids of calls that no message before it has."""
    if not message.tool_calls:
        return message
    taken = {call.id for other in before for call in other.tool_calls}
    calls = []
    for call in message.tool_calls:
        id = _free(call.id, taken)
        taken.add(id)
        calls.append(call if id == call.id else ToolCall(id, call.name, call.arguments))
    return message if calls == list(message.tool_calls) else Message(
        message.role, message.text, tuple(calls), message.tool_call_id, parts=message.parts, reasoning=message.reasoning
    )  # fmt: skip


def drop_foreign_nulls(drafts: Sequence[MessageDraft], properties: Mapping[str, Any]) -> None:
    """Takes nulls that are keys of other tools out of arguments that are objects: a table has one set of keys for all calls.

    Args:
        properties: By tool, the names that its schema has; a tool without an entry has no schema. There the keys of other tools' calls count.
    """
    calls = [call for draft in drafts for call in draft.calls if isinstance(call.arguments, Mapping)]
    if not any(value is None for call in calls for value in _values(call)):
        return
    held: dict[str, set[str]] = {}
    for call in calls:
        held.setdefault(call.name, set()).update(key for key, value in _items(call) if value is not None)
    for call in calls:
        own = properties.get(call.name)
        others = {key for name, keys in held.items() if name != call.name for key in keys}
        others |= {key for name, keys in properties.items() if name != call.name for key in keys}
        foreign = {
            key for key, value in _items(call)
            if value is None and key in others and key not in (own if own is not None else held[call.name])
        }  # fmt: skip
        call.arguments = {key: value for key, value in _items(call) if key not in foreign}


def _items(call: CallDraft) -> list[tuple[str, Any]]:
    return [] if isinstance(call.arguments, str) else list(call.arguments.items())


def _values(call: CallDraft) -> list[Any]:
    return [value for _, value in _items(call)]


def parses(arguments: str) -> bool:
    """Whether the text of arguments is JSON."""
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True
