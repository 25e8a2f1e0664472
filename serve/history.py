"""One open rollout: its calls as a tree, and the place of a new request in it.

Clients send the whole conversation with each call, and often in another form: extra fields are gone, arguments are formatted again, an
empty text is null. So a request is matched with the record message by message, on the fields that matter; the recorded messages and
tokens then replace the part that matched.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from ..policies.endpoint.reply import CallTokens
from ..policies.endpoint.tokens import add_call
from ..policies.types import Conversation
from ..store.ids import hash_id
from ..store.messages import Message, VersionSpan
from ..store.task import Task
from .calls import Call
from .read_so_far import ReadSoFar


@dataclass(frozen=True)
class Place:
    """The place of a request.

    Attributes:
        parent: Number of the call it continues; None begins a conversation.
        known: Number of the request's messages that are the parent's conversation, its answer included.
        nearest: For a request with model turns that differ from those recorded: (the call with the longest common beginning, its length
            in messages); None otherwise.
    """

    parent: int | None = None
    known: int = 0
    nearest: tuple[int, int] | None = None


@dataclass(frozen=True)
class Branch:
    """One row of a finished episode.

    Attributes:
        number: From 0, for each agent.
        path: Its calls in order. The first has all messages and tokens of its prompt.
        retry: Whether the same request was sent again and this answer was not built on.
        shared: Numbers of the calls whose sampled tokens are another row's: here they are context.
    """

    agent: str
    number: int
    path: list[Call]
    retry: bool
    shared: frozenset[int] = frozenset()


@dataclass
class _Asked:
    """An agent's last request, and the key of each beginning of its conversation."""

    tools: Sequence[Mapping[str, Any]]
    messages: list[Message]
    keys: list[str]


@dataclass
class _Line:
    """A conversation up to the end of a call. `tokens` is None when they are not known."""

    number: int = -1
    messages: list[Message] = field(default_factory=list)
    tokens: list[int] | None = field(default_factory=list)

    def go_on(self, call: Call) -> None:
        """Adds a call that continues it."""
        self.number = call.number
        self.messages += (*call.messages, call.answer)
        if call.added_ids is None or call.token_ids is None:
            self.tokens = None
        elif self.tokens is not None:
            before = [] if call.anew else self.tokens
            self.tokens = before
            before += call.added_ids
            before += call.token_ids


@dataclass
class OpenRollout:
    """The calls of one rollout id, in the order they were answered.

    Attributes:
        used_at: Time of its last call, of the monotonic clock.
        in_flight: Number of calls in flight.
        ending: Set once its rows are being written; later calls are refused.
        read: How the messages of each agent's last request were read; the next request takes it away.
    """

    name: str
    calls: list[Call] = field(default_factory=list)
    used_at: float = field(default_factory=monotonic)
    in_flight: int = 0
    ending: dict[str, Any] | None = None
    read: dict[str, ReadSoFar] = field(default_factory=dict)
    _ends: dict[str, int] = field(default_factory=dict)
    _keys: dict[int, tuple[int, str]] = field(default_factory=dict)
    _passed: dict[str, tuple[int, int]] = field(default_factory=dict)
    _asked: dict[tuple[str, str | None], "_Asked"] = field(default_factory=dict)
    _latest: "_Line | None" = None

    def add(self, call: Call) -> None:
        """Adds an answered call."""
        self.calls.append(call)
        if self._latest is not None and self._latest.number == call.parent:
            self._latest.go_on(call)
        else:
            self._latest = self._line(call)
        # A call's beginning is counted with its parent, unless it has other tools.
        parent = None if call.parent is None else self.calls[call.parent]
        goes_on = parent is not None and parent.tools == call.tools and call.parent in self._keys
        known, key = self._keys[call.parent or 0] if goes_on else (0, None)
        messages = call.messages if goes_on else self.history(call)
        keys = list(conversation_keys(call.agent, call.tools, [*messages, call.answer], key, call.model))
        self._ends[keys[-1]] = call.number
        self._keys[call.number] = (known + len(keys) - 1, keys[-1])
        for length, key in enumerate(keys, known):
            self._passed.setdefault(key, (call.number, length))

    def ends(self) -> Iterable[str]:
        """The key of each conversation that ends in an answer, in the order of the answers."""
        return self._ends

    def place(
        self, agent: str, tools: Sequence[Mapping[str, Any]], messages: Sequence[Message], model: str | None = None
    ) -> Place:
        """The longest recorded conversation of this agent, with these tools and this model, that the messages begin with."""
        keys = self._keys_of(agent, tools, messages, model)
        for known in range(len(messages), 0, -1):
            if keys[known] in self._ends:
                return Place(self._ends[keys[known]], known)
        shared = next((self._passed[key] for key in reversed(keys) if key in self._passed), None)
        has_turns = any(message.role == "assistant" for message in messages)
        mine = [call for call in self.calls if (call.agent, call.model) == (agent, model)]
        return Place(nearest=(shared or (mine[0].number, 0)) if mine and has_turns else None)

    def _keys_of(
        self, agent: str, tools: Sequence[Mapping[str, Any]], messages: Sequence[Message], model: str | None = None
    ) -> list[str]:
        """The conversation's keys; those of the last request of the agent and model are kept, where the messages begin with its."""
        last, messages = self._asked.get((agent, model)), list(messages)
        count = 0 if last is None else len(last.messages)
        # Messages that were read once are the same objects, which are not compared again.
        if last is not None and last.tools == tools and last.messages == messages[:count]:
            more = conversation_keys(agent, tools, messages[count:], last.keys[-1])
            keys = last.keys[:-1] + list(more)
        else:
            keys = list(conversation_keys(agent, tools, messages, model=model))
        self._asked[agent, model] = _Asked(tools, messages, keys)
        return keys

    def place_completion(self, agent: str, prompt_ids: list[int], model: str | None = None) -> int | None:
        """The call that a prompt of tokens continues: the one whose tokens, sampled ones included, are the longest beginning of it."""
        best, length = None, 0
        for call in self.calls:
            if call.completion and (call.agent, call.model) == (agent, model):
                ids = self.tokens(call)
                if length < len(ids) <= len(prompt_ids) and prompt_ids[: len(ids)] == ids:
                    best, length = call.number, len(ids)
        return best

    def with_tokens(
        self, agent: str, tools: Sequence[Mapping[str, Any]], token_ids: list[int], model: str | None = None
    ) -> int | None:
        """The latest call of this agent, with these tools and this model, whose tokens, sampled ones included, are these; None when there is none."""
        offered = [dict(tool) for tool in tools]
        for call in reversed(self.calls):
            if (
                (call.agent, call.model) == (agent, model)
                and self.tokens(call) == token_ids
                and [dict(tool) for tool in call.tools] == offered
            ):
                return call.number
        return None

    def path(self, call: Call) -> list[Call]:
        """The calls from the beginning to this one, in order."""
        found = [call]
        while found[-1].parent is not None:
            found.append(self.calls[found[-1].parent])
        return found[::-1]

    def history(self, call: Call) -> list[Message]:
        """All messages of the call's request; its answer follows them."""
        return self.conversation(call)[:-1]

    def conversation(self, call: Call) -> list[Message]:
        """All messages of the call's request, and its answer."""
        return list(self._line(call).messages)

    def tokens(self, call: Call) -> list[int]:
        """Prompt and sampled tokens up to the end of the call; empty when they are not known."""
        return list(self._line(call).tokens or ())

    def _line(self, call: Call) -> "_Line":
        """The conversation up to the end of a call; that of the latest one is kept."""
        if self._latest is not None and self._latest.number == call.number:
            return self._latest
        line = _Line()
        for one in self.path(call):
            line.go_on(one)
        return line

    def branches(self) -> list[Branch]:
        """Every path from a beginning to a call that no other continues, cut where a prompt does not begin with the tokens before it.

        The main path comes first: that of the first call's agent (`main`, where that is one), from its first beginning to its latest end. Branches
        are numbered for each agent, in the order in which they began to differ from those before.
        """
        agents = list(dict.fromkeys(call.agent for call in self.calls))
        agents.sort(key=lambda agent: agent != "main")
        return [branch for agent in agents for branch in self._branches_of(agent)]

    def _branches_of(self, agent: str) -> list[Branch]:
        continued = {call.parent for call in self.calls}
        paths = [self.path(call) for call in self.calls if call.agent == agent and call.number not in continued]
        retries = self._retries(continued)
        start = min(path[0].number for path in paths)
        alike = [path for path in paths if _same_request(path[0], self.calls[start])]
        # A repeated first request is the same beginning: the answer that was built on counts.
        main = max(alike, key=lambda path: (path[-1].number not in retries, path[-1].number))
        rest = sorted((path for path in paths if path is not main), key=lambda path: [call.number for call in path])
        pieces = {
            tuple(call.number for call in piece): Branch(agent, 0, piece, piece[-1].number in retries)
            for path in (main, *rest)
            for piece in self._pieces(path)
        }
        return [replace(piece, number=number) for number, piece in enumerate(_each_token_once(pieces))]

    def _retries(self, continued: Collection[int | None]) -> set[int]:
        """Calls whose answer no request built on, where the same request was sent again."""
        found = set()
        for call in self.calls:
            if call.number not in continued:
                again = [other for other in self.calls if other is not call and _same_request(other, call)]
                if any(other.number in continued or other.number > call.number for other in again):
                    found.add(call.number)
        return found

    def _pieces(self, path: list[Call]) -> Iterator[list[Call]]:
        """The path, cut before each call whose prompt was rendered anew: there a row begins whose prompt is what the engine was given."""
        piece: list[Call] = []
        for call in path:
            if call.anew and piece:
                yield piece
                before, prompt = self.tokens(piece[-1]), call.added_ids or []
                shared = next((at for at, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b), min(len(before), len(prompt)))  # fmt: skip
                messages = self.history(call)
                left = {"call": piece[-1].number, "message": len(messages) - len(call.messages), "token": shared}
                call = replace(call, messages=tuple(messages), anew=False, diverged=left)
                piece = []
            piece.append(call)
        yield piece


def _each_token_once(pieces: Mapping[tuple[int, ...], Branch]) -> list[Branch]:
    """The branches of one agent, in order, with the calls that an earlier one has; those that are the beginning of another one are left out.

    A call belongs to the first branch that is trained on, so that a retry takes none from the others.
    """
    owners: dict[int, tuple[int, ...]] = {}
    for numbers in sorted(pieces, key=lambda numbers: pieces[numbers].retry):
        for number in numbers:
            owners.setdefault(number, numbers)
    shared = {numbers: frozenset(one for one in numbers if owners[one] != numbers) for numbers in pieces}
    return [
        replace(branch, shared=shared[numbers])
        for numbers, branch in pieces.items()
        if len(shared[numbers]) < len(numbers)
    ]


def answering(new: Sequence[Message], sent: Sequence[Message], recorded: Sequence[Message]) -> list[Message]:
    """New messages with the ids of the recorded calls they answer, for clients that change the ids of calls.

    `sent` and `recorded` are the same conversation, message by message, in the client's and in the server's form.
    """
    own = {call.id for message in new for call in message.tool_calls}  # a turn that was not recorded keeps its ids
    wanted = {message.tool_call_id for message in new if message.tool_call_id is not None} - own
    ids: dict[str, str] = {}
    # The latest call of an id is the one that is answered, so the search begins at the end.
    for one, other in zip(reversed(sent), reversed(recorded), strict=True):
        if len(ids) == len(wanted):
            break
        for its, ours in zip(reversed(one.tool_calls), reversed(other.tool_calls), strict=True):
            if its.id in wanted:
                ids.setdefault(its.id, ours.id)
    return [replace(message, tool_call_id=ids[message.tool_call_id]) if message.tool_call_id in ids else message for message in new]  # fmt: skip


def conversation(task: Task, path: Sequence[Call], shared: Collection[int] = ()) -> Conversation:
    """The calls of one path as one conversation of the task, whose messages are those of the first call.

    Args:
        shared: Numbers of calls whose sampled tokens are another row's: they are context here, so that each token is trained on once.

    Tokens are joined as in `endpoint.tokens`: when a prompt does not begin with all tokens before it, `prefix_ok` is False and a gap
    names the place. A beginning with model turns that differ from those sampled has a gap too; its prompt is what the engine was given.
    """
    first = path[0]
    talk = Conversation(task, token_identity=first.token_identity, logprobs_mode=first.logprobs_mode)
    if first.diverged is not None:
        talk.gaps.append(f"history:message{first.diverged['message']}@{first.diverged['token']}")
    if shared:
        talk.gaps.append(f"shared_calls:{len(shared)}")
    prompt: list[int] = []  # the call's prompt, then the beginning of the next one's
    for turn, call in enumerate(path, 1):
        talk.messages += [*(call.messages if call is not first else ()), call.answer]
        prompt = [*([] if call.anew else prompt), *(call.added_ids or ())]
        shown = call.added_ids is not None and call.token_ids and call.logprobs is not None
        spans = talk.version_spans
        add_call(talk, CallTokens(prompt, call.token_ids or [], call.logprobs or []) if shown else None, turn)
        if talk.version_spans is not spans:  # the call's tokens were taken
            _place_spans(talk, spans, call)
            if call.number in shared:
                _as_context(talk, len(call.token_ids or ()))
        prompt += call.token_ids or ()
    return talk


def _as_context(talk: Conversation, count: int) -> None:
    """Makes the last `count` tokens, which were sampled, context."""
    talk.loss_mask[-count:] = [0] * count
    del talk.logprobs[-count:]


def _place_spans(talk: Conversation, before: Sequence[VersionSpan], call: Call) -> None:
    """Puts the call's spans after those of the tokens that were kept."""
    start = len(talk.token_ids) - len(call.token_ids or ())
    spans = [span for span in before if span.start < start]
    for span in call.version_spans:
        if not spans or spans[-1].version != span.version:
            spans.append(VersionSpan(start + span.start, span.version))
    talk.version_spans = spans


def _same_request(one: Call, other: Call) -> bool:
    same = ("parent", "agent", "model", "messages", "tools", "completion")
    return all(getattr(one, name) == getattr(other, name) for name in same)


def conversation_keys(
    agent: str,
    tools: Sequence[Mapping[str, Any]],
    messages: Sequence[Message],
    key: str | None = None,
    model: str | None = None,
) -> Iterator[str]:
    """One key for each beginning of the conversation, the empty one first: equal beginnings have equal keys.

    `key` is that of a conversation which the messages go on; it then comes first.
    """
    if key is None:
        key = hash_id(agent, [dict(tool) for tool in tools], *([] if model is None else [model]))
    yield key
    for message in messages:
        key = hash_id(key, _matters(message))
        yield key


def _matters(message: Message) -> list[Any]:
    """The parts of a message that must be equal: not the ids of calls, reasoning, space around text, or the format of arguments."""
    calls = [[call.name, _value(call.arguments)] for call in message.tool_calls]
    text = message.text or ""
    return [message.role, text.strip() if message.role == "assistant" else text, calls]


def _value(arguments: str) -> Any:
    try:
        return [json.loads(arguments)]
    except (ValueError, RecursionError):
        return arguments
