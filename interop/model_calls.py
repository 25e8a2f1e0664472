"""Model calls that repeat the conversation so far, joined to conversations: what traces and logs of an API hold.

A call continues a conversation when its request begins with everything that was said there; another call begins a conversation of its own. The
comparison passes over ids, reasoning (which requests leave out again) and the spaces in arguments.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ..store.content import is_empty
from ..store.messages import Message
from ..store.reading import MessageReader
from ..store.tool_schemas import Tool, read_tools
from .rollout import FileRollout, Row
from .values import read_json

_ENDING = ("status", "stop_reason", "error_type", "error_message")
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")


@dataclass
class ModelCall:
    """One call of a model.

    Attributes:
        asked: The messages of the request, of any dialect.
        said: The reply: a message, items, or text.
        system: A system prompt beside the messages; None without one.
        tools: Of any dialect; None when the source has none.
        columns: Columns of rollouts that follow from the call: policy_id, sampling, status, ….
        usage: Tokens, as the source names them.
        id: The call's, None when it has none.
        ended: When the reply was complete.
        above: The ids of what the call is a part of: its agent, its chain, its trace.
        unread: Values of the call that no column takes, by path.
        gaps: What is missing of it.
    """

    asked: Any
    said: Any
    system: Any = None
    tools: Any = None
    columns: Row = field(default_factory=dict)
    usage: Row | None = None
    id: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    above: frozenset[str] = frozenset()
    unread: Row = field(default_factory=dict)
    gaps: set[str] = field(default_factory=set)


@dataclass
class JoinedCalls:
    """Calls that continue each other.

    Attributes:
        messages: Everything said, the last reply included.
        n_asked: How many of them the first request held.
        unread: What no column took of a call, by path.
    """

    messages: list[Message]
    n_asked: int
    tools: list[Tool]
    calls: list[ModelCall]
    gaps: set[str]
    unread: Row

    def rollout(self) -> FileRollout:
        """The rollout, without ids."""
        first, last = self.calls[0], self.calls[-1]
        rollout = FileRollout(self.messages[: self.n_asked], self.tools, self.messages[self.n_asked :], gaps=set(self.gaps), unread=dict(self.unread))  # fmt: skip
        # The ending is that of the last call, also where an earlier one failed and was repeated.
        later = {name: value for name, value in last.columns.items() if name not in SAMPLING and (value is not None or name in _ENDING)}  # fmt: skip
        rollout.columns = {**first.columns, **later}
        rollout.columns["started_at"] = first.started
        if first.started and last.ended:
            rollout.columns["duration_s"] = (last.ended - first.started).total_seconds()
            spent = [(call.ended - call.started).total_seconds() for call in self.calls if call.ended and call.started]
            rollout.columns["generate_s"] = sum(spent)
        rollout.columns["n_turns"] = len(self.calls)
        return rollout

    def usage(self) -> list[Row]:
        """The usage of each call that has one."""
        return [call.usage for call in self.calls if call.usage]


def join(calls: Iterable[ModelCall]) -> list[JoinedCalls]:
    """The conversations of calls that come in the order of time. Raises SchemaMismatch for messages of no dialect."""
    found: list[JoinedCalls] = []
    spoken: list[list[Any]] = []
    for call in calls:
        tools = read_tools(call.tools)
        gaps: set[str] = set()
        reader = MessageReader(gaps, tools)
        system = [] if is_empty(call.system) else reader.read(call.system, "system", "system")
        asked = [*system, *reader.read(call.asked, "user", "input")]
        said = [_spoken_by_policy(message) for message in reader.read(call.said, "assistant", "output")]
        words = [_words(message) for message in asked]
        gaps |= call.gaps
        at = _continued(spoken, words)
        if at is None:
            found.append(JoinedCalls([*asked, *said], len(asked), tools, [call], gaps, _unread(call, 0, reader)))
            spoken.append([*words, *map(_words, said)])
            continue
        before = found[at]
        if tools != before.tools:
            gaps.add("tools_changed")
        before.gaps |= gaps
        before.unread |= _unread(call, len(before.calls), reader)
        before.messages = [*_with_reasoning(asked, before.messages), *said]
        before.calls.append(call)
        spoken[at] = [*words, *map(_words, said)]
    return found


def _unread(call: ModelCall, number: int, reader: MessageReader) -> Row:
    """What no column took, by path. Requests repeat the messages before them: these have one path in all of a conversation's calls."""
    found = {f"calls[{number}].{path}": value for path, value in call.unread.items()}
    return found | {f"calls[{number}].{path}" if path.startswith("output") else path: value for path, value in reader.unread.items()}  # fmt: skip


def _spoken_by_policy(message: Message) -> Message:
    return message if message.role in ("assistant", "tool") else replace(message, role="assistant")


def _continued(spoken: Sequence[list[Any]], words: list[Any]) -> int | None:
    """The longest conversation that these messages begin with; None for none."""
    fits = [at for at, said in enumerate(spoken) if len(said) <= len(words) and words[: len(said)] == said]
    return max(fits, key=lambda at: len(spoken[at]), default=None)


def _words(message: Message) -> Any:
    calls = [(call.name, _sorted(call.arguments)) for call in message.tool_calls]
    return (message.role, message.text or None, message.parts, calls)


def _sorted(arguments: str) -> str:
    read = read_json(arguments)
    return arguments if read is None else json.dumps(read, sort_keys=True)


def _with_reasoning(asked: list[Message], before: list[Message]) -> list[Message]:
    """The request's messages, with the reasoning that the replies among them had."""
    known = [message.reasoning for message in before] + [None] * (len(asked) - len(before))
    return [
        message if message.reasoning is not None or reasoning is None else replace(message, reasoning=reasoning)
        for message, reasoning in zip(asked, known, strict=True)
    ]
