"""Logs of an API: `{"request": …, "response": …}` a line, of OpenAI chat, OpenAI Responses or Anthropic messages.

Calls with the id of one session (`session_id`, `trace_id` or `conversation_id`, on the line or in the request's metadata) are joined to conversations;
any other call is a rollout of its own, whose prompt holds what was said before. Several choices are several rollouts.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..store.content import is_empty
from ..store.ids import hash_id
from .grouping import grouped
from .lines import Line, Quarantine, read_objects
from .model_calls import JoinedCalls, ModelCall, join
from .rewards import REWARDS, verdict
from .rollout import FileRollout, Row
from .sample import FileSample
from .storing import Source
from .values import present, read_json

_FORMAT = "pairs"
_SESSION = ("session_id", "trace_id", "conversation_id")
# Fields of a request that have a column, or that concern the delivery alone.
_REQUEST = {
    "model", "messages", "input", "instructions", "system", "tools", "functions", "temperature", "top_p", "top_k", "seed", "max_tokens",
    "max_completion_tokens", "max_output_tokens", "metadata", "stream", "stream_options", "store", *_SESSION,
}  # fmt: skip
_STOPS = {"stop": "stop", "end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "completed": "stop"}


def signs(sample: FileSample) -> str | None:
    """Lines with a request and a response."""
    if sample.have("request", "response"):
        return "its lines have a request and a response"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The calls of one session after another's."""
    for line, pairs in grouped(read_objects(path, quarantine, on_progress), _session):
        yield line, {"pairs": pairs}


def _session(line: Row) -> str | None:
    for place in (line, present(line, "request.metadata"), present(line, "metadata")):
        for name in _SESSION if isinstance(place, dict) else ():
            if isinstance(place.get(name), str):
                return place[name]
    return None


def read(session: Row, source: Source) -> list[FileRollout]:
    """The rollouts of one session."""
    pairs: list[Row] = session["pairs"]
    key = _session(pairs[0])
    found = [rollout for group in _choices(pairs, source.reward_columns) for rollout in _rollouts(group, key, source)]
    for index, rollout in enumerate(found):
        rollout.columns["branch"] = index if key else 0
        if key:
            rollout.columns["episode_id"] = hash_id(_FORMAT, source.source_run, "episode", key)
    return found


def _choices(pairs: list[Row], rewards: Sequence[str]) -> list[list[ModelCall]]:
    """The calls of a session; the further choices of one each alone."""
    calls = [_calls(pair, rewards) for pair in pairs]
    return [[first for first, *_ in calls], *([other] for _, *others in calls for other in others)]


def _rollouts(calls: list[ModelCall], key: str | None, source: Source) -> list[FileRollout]:
    found = []
    for conversation in join(calls):
        rollout = conversation.rollout()
        if key is None and any(message.role == "assistant" for message in rollout.prompt):
            rollout.gaps.add("calls_not_joined")
        if key is not None:
            first = conversation.calls[0].id or _first_id(conversation)
            rollout.source_key = [key, first, len(conversation.calls)]
            # A session that grew is a later attempt at the same slot.
            slot = hash_id(_FORMAT, source.source_run, "slot", key, first)
            rollout.columns |= {"slot_id": slot, "attempt": len(conversation.calls) - 1}
        usage = conversation.usage()
        rollout.extra = {_FORMAT: {"usage": usage}} if usage else {}
        found.append(rollout)
    return found


def _first_id(conversation: JoinedCalls) -> str:
    said = conversation.messages[: conversation.n_asked + 1]
    return "|".join(f"{message.role}:{message.text}" for message in said)


def _calls(pair: Row, rewards: Sequence[str]) -> list[ModelCall]:
    """The model call of a line, one for each choice. `rewards` are the fields that the user names as rewards."""
    request, response = (_body(pair[name]) for name in ("request", "response"))
    if not isinstance(request, dict) or not isinstance(response, dict):
        raise ValueError("request and response are not objects")
    columns = {
        "policy_id": response.get("model") or request.get("model"), "temperature": request.get("temperature"), "top_p": request.get("top_p"),
        "top_k": request.get("top_k"), "sampling_seed": request.get("seed"),
        "max_tokens": request.get("max_completion_tokens") or request.get("max_output_tokens") or request.get("max_tokens"),
        **verdict(pair, rewards), **_error(response),
    }  # fmt: skip
    made = response.get("created") or response.get("created_at")
    started = datetime.fromtimestamp(made, UTC) if isinstance(made, int | float) else None
    tools, id = request.get("tools") or request.get("functions"), response.get("id")
    if "input" in request:
        call = ModelCall(request["input"], response.get("output") or [], request.get("instructions"), tools)
        replies = [(call, response.get("status"))]
    elif isinstance(response.get("content"), list):
        said = {"role": "assistant", "content": response["content"]}
        replies = [(ModelCall(request["messages"], said, request.get("system"), tools), response.get("stop_reason"))]
    else:
        choices = response.get("choices") or []
        if not choices and not columns.get("error_message"):
            raise ValueError("the response holds no choices, output or content")
        replies = [(ModelCall(request["messages"], choice["message"], None, tools), choice.get("finish_reason")) for choice in choices]  # fmt: skip
        replies = replies or [(ModelCall(request["messages"], [], None, tools), None)]
    for number, (call, stop) in enumerate(replies):
        reason = _STOPS.get(str(stop), stop)
        ended = {"status": "truncated" if reason in ("length", "incomplete") else "completed", "stop_reason": reason}
        call.columns = {**ended, **columns}
        call.usage, call.started, call.id = response.get("usage"), started, f"{id}#{number}" if id and number else id
        call.unread = _unread(pair, request, rewards)
    if any(choice.get("logprobs") for choice in response.get("choices") or ()):
        for call, _ in replies:
            call.gaps.add("logprobs_without_ids")
    return [call for call, _ in replies]


def _unread(pair: Row, request: Row, rewards: Sequence[str]) -> Row:
    """What of a line and of its request has no place."""
    beside = {name: value for name, value in pair.items() if name not in {"request", "response", *_SESSION, *REWARDS, *rewards}}  # fmt: skip
    asked = {f"request.{name}": value for name, value in request.items() if name not in _REQUEST}
    return {name: value for name, value in (beside | asked).items() if not is_empty(value)}


def _body(value: Any) -> Any:
    """A request or response: the object, its JSON text, or what lies under `body`."""
    value = read_json(value) if isinstance(value, str) else value
    inner = value.get("body") if isinstance(value, dict) else None
    return _body(inner) if inner is not None else value


def _error(response: Row) -> Row:
    error = response.get("error")
    if not error:
        return {}
    message = error.get("message") if isinstance(error, dict) else error
    return {"status": "error", "error_type": "engine", "error_message": str(message), "stop_reason": "error"}
