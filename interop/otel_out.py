"""Writing OpenTelemetry traces, as OTLP JSON with the GenAI conventions: a trace for each episode, in it an agent's span for each rollout, a chat
span for each reply and a tool's span for each call.

Times of spans within a rollout were not measured: they tell the order, a millisecond each. A `.jsonl` file has a trace a line, as collectors write
it; any other file is one object on one line.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..store.ids import hash_id
from ..store.messages import Message, ToolCall
from .lines import whole_file, write_objects
from .otel import KEPT, held
from .parts import image_url
from .rollout import FileRollout, Row, keepsake
from .values import read_json

_STEP = 1_000_000
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")
_PARTS = {"text": "content", "input_text": "content", "output_text": "content"}


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a file of traces."""
    if path.suffix == ".jsonl":
        write_objects(({"resourceSpans": [_resource(rollouts, plain)]} for rollouts in episodes), path)
        return
    with whole_file(path) as file:
        file.write('{"resourceSpans": [')
        for number, rollouts in enumerate(episodes):
            file.write(", " if number else "")
            json.dump(_resource(rollouts, plain), file, ensure_ascii=False)
        file.write("]}\n")


def _resource(rollouts: Sequence[FileRollout], plain: bool) -> Row:
    trace = hash_id("trace", rollouts[0].get("episode_id") or rollouts[0].get("rollout_id"))
    spans = [span for rollout in rollouts for span in _spans(rollout, trace, plain)]
    return {
        "resource": {"attributes": _attributes({"service.name": "rollhouse"})},
        "scopeSpans": [{"scope": {"name": "rollhouse"}, "spans": spans}],
    }


def _spans(rollout: FileRollout, trace: str, plain: bool) -> Iterator[Row]:
    """The agent's span, then those of its replies and calls in their order."""
    id = str(rollout.get("rollout_id"))
    started = rollout.get("started_at") or datetime.fromtimestamp(0, UTC)
    at = int(started.timestamp() * 1000) * _STEP
    replies = [index for index, message in enumerate(rollout.messages) if message.role == "assistant"]
    first = _span_id(id, "reply", replies[0] if replies else 0)
    agent = _span_id(id, "agent", 0)
    end = at + max(int((rollout.get("duration_s") or 0) * 1e9), (2 * len(rollout.messages) + 1) * _STEP)
    about: Row = {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": rollout.get("agent"), "gen_ai.request.model": rollout.get("policy_id"),
        "gen_ai.conversation.id": rollout.get("episode_id"),
    }  # fmt: skip
    if not plain:
        about |= {"rollhouse.first_call": first, KEPT: json.dumps(keepsake(rollout, held(rollout)), default=str)}
    failed = rollout.get("status") in ("error", "timeout", "aborted")
    yield {
        **_span(trace, agent, f"invoke_agent {rollout.get('agent') or 'main'}", at, end, about),
        "events": _judged(rollout, end),
        "status": {"code": 2, "message": rollout.get("error_message") or rollout.get("status")} if failed else {},
    }
    for index, message in enumerate(rollout.messages):
        start = at + (2 * index + 1) * _STEP
        if message.role == "assistant":
            told = _reply(rollout, index, message, last=index == replies[-1])
            name = f"chat {rollout.get('policy_id') or 'model'}"
            yield {
                **_span(trace, _span_id(id, "reply", index), name, start, start + _STEP, told),
                "kind": 3,
                "parentSpanId": agent,
            }
        elif message.role == "tool":
            told = _result(rollout.messages[:index], message)
            name = f"execute_tool {told.get('gen_ai.tool.name') or 'tool'}"
            yield {**_span(trace, _span_id(id, "tool", index), name, start, start + _STEP, told), "parentSpanId": agent}


def _span(trace: str, id: str, name: str, start: int, end: int, attributes: Row) -> Row:
    return {
        "traceId": trace,
        "spanId": id,
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(end),
        "attributes": _attributes(attributes),
        "status": {},
    }


def _span_id(*parts: Any) -> str:
    return hash_id(*parts)[:16]


def _attributes(values: Row) -> list[Row]:
    return [{"key": name, "value": _value(value)} for name, value in values.items() if value is not None]


def _value(value: Any) -> Row:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _judged(rollout: FileRollout, at: int) -> list[Row]:
    if rollout.get("reward") is None:
        return []
    told = {"gen_ai.evaluation.name": "reward", "gen_ai.evaluation.score.value": float(rollout.columns["reward"]), "gen_ai.evaluation.score.label": _label(rollout)}  # fmt: skip
    return [{"name": "gen_ai.evaluation.result", "timeUnixNano": str(at), "attributes": _attributes(told)}]


def _label(rollout: FileRollout) -> str | None:
    passed = rollout.get("passed")
    return None if passed is None else "pass" if passed else "fail"


def _reply(rollout: FileRollout, index: int, message: Message, last: bool) -> Row:
    """The attributes of the span of a reply."""
    asked = [*rollout.prompt, *rollout.messages[:index]]
    reason = (
        "tool_call" if message.tool_calls else "length" if last and rollout.get("status") == "truncated" else "stop"
    )
    said = {**_message(message), "finish_reason": reason}
    tools = [{"type": "function", **tool["function"]} if "function" in tool else tool for tool in rollout.tools]
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": rollout.get("engine") or "rollhouse",
        "gen_ai.request.model": rollout.get("policy_id"),
        "gen_ai.response.model": rollout.get("policy_id"),
        **{f"gen_ai.request.{name}": rollout.get(name) for name in _SAMPLING},
        "gen_ai.request.seed": rollout.get("sampling_seed"),
        "gen_ai.response.finish_reasons": [reason],
        "gen_ai.input.messages": json.dumps([_message(one) for one in asked], ensure_ascii=False),
        "gen_ai.output.messages": json.dumps([said], ensure_ascii=False),
        "gen_ai.tool.definitions": json.dumps(tools, ensure_ascii=False) if tools else None,
    }


def _message(message: Message) -> Row:
    parts: list[Row] = []
    if message.reasoning is not None:
        parts.append({"type": "reasoning", "content": message.reasoning})
    if message.role == "tool":
        response = json.loads(message.parts) if message.parts else message.text
        parts.append({"type": "tool_call_response", "id": message.tool_call_id, "response": response})
        return {"role": "tool", "parts": parts}
    if message.parts:
        parts += [_part(part) for part in json.loads(message.parts)]
    elif message.text:
        parts.append({"type": "text", "content": message.text})
    parts += [_called(call) for call in message.tool_calls]
    return {"role": message.role, "parts": parts}


def _part(part: Row) -> Row:
    """A content part in the convention's form: text, or a URI; any other part as it is, which the convention allows."""
    if isinstance(part.get("text"), str):
        return {"type": "text", "content": part["text"]}
    url = image_url(part)
    return part if url is None else {"type": "uri", "modality": "image", "uri": url}


def _called(call: ToolCall) -> Row:
    read = read_json(call.arguments)
    arguments = read if isinstance(read, dict) and json.dumps(read, ensure_ascii=False) == call.arguments else call.arguments  # fmt: skip
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}


def _result(before: Sequence[Message], message: Message) -> Row:
    """The attributes of the span of a tool's run, with those of the call that it answers."""
    calls = [call for one in before for call in one.tool_calls if call.id == message.tool_call_id]
    told: Row = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": message.tool_call_id, "gen_ai.tool.type": "function"}  # fmt: skip
    if calls:
        told |= {"gen_ai.tool.name": calls[-1].name, "gen_ai.tool.call.arguments": calls[-1].arguments}
    return told | {"gen_ai.tool.call.result": message.parts or message.text}
