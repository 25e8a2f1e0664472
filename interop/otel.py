"""OpenTelemetry traces of agents: spans in OTLP JSON with the GenAI conventions, OpenLLMetry's or OpenInference's (Phoenix) attributes.

The model calls of a trace, or of the traces of one conversation, are joined to conversations. Content is there only where its capture was on.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from .grouping import grouped
from .lines import Line, Quarantine, read_objects
from .model_calls import ModelCall
from .rollout import FileRollout, Row, take_keepsake
from .sample import FileSample
from .storing import Source
from .traces import Judgement, ids_above, rollouts_of_trace, time_of
from .values import read_json

KEPT = "rollhouse.rollout"
_SESSIONS = ("gen_ai.conversation.id", "session.id")
_GENERATING = {"chat", "generate_content", "text_completion"}
_CONTENT = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions")
_REQUEST = {
    "temperature": "gen_ai.request.temperature", "top_p": "gen_ai.request.top_p", "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens", "sampling_seed": "gen_ai.request.seed",
}  # fmt: skip
_KNOWN = {*_REQUEST.values(), "gen_ai.request.model"}
_EVALUATION = "gen_ai.evaluation"


def signs(sample: FileSample) -> str | None:
    """Objects of resourceSpans."""
    return "it holds resourceSpans (OTLP JSON)" if sample.have("resourceSpans") else None


def held(rollout: FileRollout) -> set[str]:
    """The columns it has a place for."""
    return {"policy_id", "agent", "temperature", "top_p", "top_k", "max_tokens", "sampling_seed", "reward"}


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The spans of each conversation, or of each trace that belongs to none; the file is read twice."""
    sessions: dict[str, str] = {}
    for _, span in _spans(path, None, None):
        for name in _SESSIONS:
            if isinstance(span["attributes"].get(name), str):
                sessions.setdefault(span["traceId"], span["attributes"][name])
    key = lambda span: sessions.get(span["traceId"], span["traceId"])  # noqa: E731
    for line, spans in grouped(_spans(path, quarantine, on_progress), key):
        yield line, {"key": key(spans[0]), "spans": spans}


def _spans(
    path: Path, quarantine: Quarantine | None, on_progress: Callable[[int], None] | None
) -> Iterator[tuple[Line, Row]]:
    for line, record in read_objects(path, quarantine, on_progress):
        try:
            spans = _spans_of(record)
        except (KeyError, TypeError, ValueError, AttributeError):
            if quarantine is not None:
                quarantine.add(line, "its spans are not those of OTLP JSON")
            continue
        for span in spans:
            yield line, span


def _spans_of(record: Row) -> list[Row]:
    """The spans of one object, their attributes as objects."""
    found = []
    for resource in record.get("resourceSpans") or ():
        for scope in resource.get("scopeSpans") or resource.get("instrumentationLibrarySpans") or ():
            for span in scope.get("spans") or ():
                events = [{**event, "attributes": decoded(event.get("attributes"))} for event in span.get("events") or ()]  # fmt: skip
                found.append({**span, "traceId": str(span.get("traceId")), "attributes": decoded(span.get("attributes")), "events": events})  # fmt: skip
    return found


def decoded(attributes: Any) -> Row:
    """OTLP's list of keys and typed values as an object."""
    return {one["key"]: _value(one.get("value") or {}) for one in attributes or ()}


def _value(value: Row) -> Any:
    if "arrayValue" in value:
        return [_value(item) for item in value["arrayValue"].get("values") or ()]
    if "kvlistValue" in value:
        return decoded(value["kvlistValue"].get("values"))
    if "intValue" in value:
        return int(value["intValue"])
    return next(iter(value.values()), None)


def read(trace: Row, source: Source) -> list[FileRollout]:
    """The rollouts of one trace or conversation."""
    spans = sorted(trace["spans"], key=lambda span: int(span.get("startTimeUnixNano") or 0))
    by_id = {span.get("spanId"): span for span in spans}
    generating = [span for span in spans if _is_generation(span)]
    # Where only agents' spans hold messages, these are read in place of the calls.
    generating = generating or [span for span in spans if "gen_ai.output.messages" in _content(span)]
    calls = [(call, _agent(span, by_id)) for span in generating if (call := _call(span)) is not None]
    for call, _ in calls:
        call.above = ids_above(call.id, lambda id: (by_id.get(id) or {}).get("parentSpanId"))
    judged = [one for span in spans for event in span["events"] if (one := _judgement(event, span)) is not None]
    rollouts = rollouts_of_trace(trace["key"], calls, judged, source)
    for rollout in rollouts:
        rollout.gaps |= {"calls_without_content"} if len(calls) < len(generating) else set()
    kept = {span["attributes"].get("rollhouse.first_call"): read_json(span["attributes"][KEPT]) for span in spans if span["attributes"].get(KEPT)}  # fmt: skip
    for rollout in rollouts:
        if kept:
            take_keepsake(rollout, kept.get(rollout.source_key[1]))
    return rollouts


def _is_generation(span: Row) -> bool:
    attributes = span["attributes"]
    kind = attributes.get("gen_ai.operation.name") or attributes.get("openinference.span.kind") or attributes.get("llm.request.type")  # fmt: skip
    return kind in _GENERATING or kind == "LLM"


def _content(span: Row) -> Row:
    """The attributes of a span, and those of its events that hold content."""
    return dict(chain(*(event["attributes"].items() for event in span["events"] if set(_CONTENT) & event["attributes"].keys()), span["attributes"].items()))  # fmt: skip


def _call(span: Row) -> ModelCall | None:
    """The model call of a span; None where its content was not captured."""
    told = _content(span)
    asked, said, system, tools = (_structured(told.get(name)) for name in _CONTENT)
    asked = asked or _messages(told, "gen_ai.prompt") or _messages(told, "llm.input_messages")
    said = said or _messages(told, "gen_ai.completion") or _messages(told, "llm.output_messages")
    tools = tools or [one.get("tool", {}).get("json_schema") or one for one in _listed(told, "llm.tools") or _listed(told, "llm.request.functions")]  # fmt: skip
    if not asked and not said:
        return None
    parameters = _structured(told.get("llm.invocation_parameters")) or {}
    sampling = {name: told.get(key, parameters.get(name)) for name, key in _REQUEST.items()}
    model = told.get("gen_ai.response.model") or told.get("gen_ai.request.model") or told.get("llm.model_name")
    ending = _ending(span, told, said or [])
    unread: Row = {name: value for name, value in told.items() if name.startswith("gen_ai.request.") and name not in _KNOWN}  # fmt: skip
    said = _without_reasons(said)
    if len(said) > 1:
        unread["gen_ai.output.messages"] = said[1:]
    usage = {name.removeprefix("gen_ai.usage.").removeprefix("llm.token_count."): value for name, value in told.items() if name.startswith(("gen_ai.usage.", "llm.token_count."))}  # fmt: skip
    return ModelCall(
        _without_reasons(asked),
        said[:1],
        system,
        tools,
        {"policy_id": model, **sampling, **ending},
        usage or None,
        span.get("spanId"),
        time_of(span.get("startTimeUnixNano")),
        time_of(span.get("endTimeUnixNano")),
        unread=unread,
    )


def _without_reasons(messages: Any) -> list[Row]:
    return [{name: value for name, value in one.items() if name != "finish_reason"} for one in messages or ()]


def _structured(value: Any) -> Any:
    return read_json(value) if isinstance(value, str) else value


def _messages(told: Row, prefix: str) -> list[Row]:
    """Messages that a convention flattens into attributes like `llm.input_messages.0.message.content`."""
    found = []
    for one in _listed(told, prefix):
        message = one.get("message", one)
        calls = [call.get("tool_call", call) for call in _in_order(message.get("tool_calls"))]
        parts = [part.get("message_content", part) for part in _in_order(message.get("contents"))]
        content = [{"type": "image_url", "image_url": {"url": part["image"]["image"]["url"]}} if part.get("type") == "image" else part for part in parts]  # fmt: skip
        told_message = {name: value for name, value in message.items() if name not in ("tool_calls", "contents", "finish_reason")}  # fmt: skip
        found.append({**told_message, **({"content": content} if content else {}), **({"tool_calls": calls} if calls else {})})  # fmt: skip
    return found


def _listed(told: Row, prefix: str) -> list[Row]:
    """What attributes with this prefix flatten: `prefix.N.a.b` as the N-th object's `a.b`."""
    nested: Row = {}
    for name, value in told.items():
        if name.startswith(f"{prefix}."):
            *path, last = name[len(prefix) + 1 :].split(".")
            place = nested
            for part in path:
                inner = place.setdefault(part, {})
                place = inner if isinstance(inner, dict) else place
            place[last] = value
    return [one for one in _in_order(nested) if isinstance(one, dict)]


def _in_order(nested: Any) -> list[Any]:
    if not isinstance(nested, dict):
        return nested if isinstance(nested, list) else []
    return [nested[key] for key in sorted((key for key in nested if key.isdigit()), key=int)]


def _agent(span: Row, by_id: Row) -> str | None:
    """The name of the agent that a span is part of."""
    at: Row | None = span
    for _ in range(len(by_id) + 1):
        if at is None:
            return None
        attributes = at["attributes"]
        name = attributes.get("gen_ai.agent.name") or attributes.get("agent.name")
        if name or attributes.get("openinference.span.kind") == "AGENT":
            return name or at.get("name")
        at = by_id.get(at.get("parentSpanId") or "")
    return None


def _ending(span: Row, told: Row, said: list[Row]) -> Row:
    status = span.get("status") or {}
    if status.get("code") in (2, "STATUS_CODE_ERROR"):
        return {"status": "error", "error_type": "engine", "error_message": status.get("message") or told.get("error.type"), "stop_reason": "error"}  # fmt: skip
    reasons = told.get("gen_ai.response.finish_reasons") or [one.get("finish_reason") for one in said]
    reason = reasons[0] if isinstance(reasons, list) and reasons else None
    reason = reason or told.get("llm.finish_reason")
    return {"status": "truncated" if reason in ("length", "max_tokens") else "completed", "stop_reason": reason}


def _judgement(event: Row, span: Row) -> Judgement | None:
    """The judgement of an evaluation event on its span; one on a root span is of the whole trace."""
    told = event["attributes"]
    if not str(event.get("name")).startswith(_EVALUATION):
        return None
    value = told.get(f"{_EVALUATION}.score.value")
    return Judgement(
        str(told.get(f"{_EVALUATION}.name") or "evaluation"),
        float(value) if isinstance(value, int | float) else None,
        told.get(f"{_EVALUATION}.score.label"),
        told.get(f"{_EVALUATION}.explanation"),
        span.get("spanId") if span.get("parentSpanId") else None,
    )
