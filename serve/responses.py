"""The Responses API: input items in, output items out, tokens on the last item of the turn as NeMo Gym's agents need them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..base.errors import SchemaMismatch
from ..interop.responses import flat_tools, output_items
from ..store.items import TokenCall, is_item, item_type
from ..store.messages import Message
from ..store.reading import MessageReader
from .answers import ModelAnswer
from .bodies import Body
from .errors import refused
from .fields import RESPONSES, given_fields
from .kept import KeptResponses
from .read_so_far import Prefix, ReadSoFar, carried_tokens, unread_gaps
from .replies import Json, finish_reason, head, usage
from .request import ModelRequest, listed, read_chat
from .tools import custom_arguments, custom_text

# Fields with the same name and meaning in a chat request.
_SAME = ("model", "tools", "tool_choice", "temperature", "top_p", "top_k", "seed", "stream", "metadata", "rollout_id", "return_token_ids", "chat_template_kwargs", "parallel_tool_calls", "user", "service_tier", "safety_identifier", "prompt_cache_key")  # fmt: skip


@dataclass(frozen=True)
class ResponseRequest:
    """A request of `/v1/responses`. `items` are the whole input, earlier responses included."""

    parsed: ModelRequest
    items: list[Any]


def read_response(body: Body, kept: KeptResponses, before: ReadSoFar | None = None) -> ResponseRequest:
    """A body of `/v1/responses`; `before` as for `read_chat`. Raises ApiError that names the wrong field."""
    items = _input(body, kept)
    reader, gaps = MessageReader(), []
    plain = [_plain(item, number, gaps) for number, item in enumerate(items)]
    plain = [item for item in plain if item is not None]
    try:
        messages = reader.read_items(plain, "input")
        prefix = _carried(plain)
    except SchemaMismatch as error:
        raise refused(f"`input` cannot be read: {error.message}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refused(f"`input` cannot be read: {type(error).__name__}: {error}.") from error
    instructions = body.get("instructions")
    if isinstance(instructions, str) and instructions:
        messages = [Message("system", instructions), *messages]
        prefix = prefix and replace(prefix, length=prefix.length + 1)
    if not messages:
        raise refused("`input` holds no message.")
    given = given_fields(body, RESPONSES)
    # Through the chat route's reader, so that both routes accept the same requests.
    parsed = read_chat({"messages": [message.to_openai() for message in messages], **_settings(body)}, before)
    verbosity = ["text.verbosity"] if isinstance(body.get("text"), dict) and body["text"].get("verbosity") else []
    parsed = replace(
        parsed,
        prefix=prefix,
        noted=(
            *given.noted,
            *verbosity,
            *_not_included(body),
            *(name for name in parsed.noted if name == "strict" or name.startswith("tools.")),
        ),
        refused=given.refused,
        gaps=(*parsed.gaps, *dict.fromkeys(gaps), *unread_gaps(reader)),
    )
    return ResponseRequest(parsed, items)


def _input(body: Body, kept: KeptResponses) -> list[Any]:
    source = body.get("input")
    if not source or not isinstance(source, (str, list)):
        raise refused("`input` must be a string or a list of items, and not empty.")
    new = [{"type": "message", "role": "user", "content": source}] if isinstance(source, str) else source
    new = [kept.item(item.get("id")) if _is_reference(item) else item for item in new]
    previous = body.get("previous_response_id")
    return new if previous is None else [*kept.before(previous), *new]


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and (item.get("type") == "item_reference" or item.keys() == {"id"})


def _plain(item: Any, number: int, gaps: list[str]) -> Any:
    """An item as the reader of messages takes it; None for one of a kind that no message holds, which `gaps` names."""
    if not isinstance(item, dict):
        raise refused(f"`input[{number}]` must be an object.")
    kind = item_type(item) if is_item(item) or "role" not in item else str(item.get("type") or "message")
    if kind == "custom_tool_call":
        rest = {name: value for name, value in item.items() if name != "input"}
        return {**rest, "type": "function_call", "arguments": custom_arguments(item.get("input"))}
    if kind == "custom_tool_call_output":
        return {**item, "type": "function_call_output"}
    if kind in ("message", "reasoning") or kind.endswith(("_call", "_call_output")):
        return item
    gaps.append(f"dropped_item:{kind}")
    return None


def _settings(body: Body) -> Json:
    """The other fields as those of a chat request."""
    settings = {name: body[name] for name in _SAME if body.get(name) is not None}
    settings["tools"] = listed(body, "tools")
    settings["max_tokens"] = body.get("max_output_tokens")
    text, reasoning = body.get("text") or {}, body.get("reasoning") or {}
    if not isinstance(text, dict) or not isinstance(reasoning, dict):
        raise refused("`text` and `reasoning` must be objects.")
    settings["response_format"] = _format(text.get("format"))
    settings["verbosity"], settings["reasoning_effort"] = text.get("verbosity"), reasoning.get("effort")
    return settings


def _not_included(body: Body) -> list[str]:
    """The parts that an answer was to include and does not have."""
    return ["include"] if "message.output_text.logprobs" in listed(body, "include") else []


def _format(given: Any) -> Any:
    """`text.format` as a chat request's `response_format`."""
    if isinstance(given, dict) and given.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if name != "type"}}
    return given


def response_reply(parsed: ModelRequest, begun: Json, answer: ModelAnswer) -> Json:
    """The body of a response; `begun` is it in progress."""
    calls = None
    if (
        parsed.show_tokens
        and answer.token_ids is not None
        and answer.prompt_ids is not None
        and answer.logprobs is not None
    ):
        calls = [TokenCall(answer.prompt_ids, answer.token_ids, answer.logprobs)]
    items = [_with_text(item, parsed.custom) for item in output_items([answer.message], calls)]
    for number, item in enumerate(items):
        item["id"] = f"{item['id'].split('_')[0]}_{begun['id'].removeprefix('resp-')}_{number}"
    cut = finish_reason(answer) == "length"
    return {
        **begun,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": items,
        "usage": _usage(answer),
    }


def response_head(parsed: ModelRequest, body: Body, model: str) -> Json:
    """A response in progress."""
    reply = head("resp", "response", model)
    return {
        "id": reply["id"],
        "object": "response",
        "created_at": reply["created"],
        "model": model,
        "status": "in_progress",
        "incomplete_details": None,
        "error": None,
        "output": [],
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "temperature": parsed.sampling.temperature,
        "top_p": parsed.sampling.top_p,
        "max_output_tokens": parsed.max_tokens,
        "store": body.get("store") is not False,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": flat_tools([dict(tool) for tool in parsed.tools]),
        "usage": None,
    }


def _usage(answer: ModelAnswer) -> Json:
    counts: Mapping[str, Any] = usage([answer])
    prompt, sampled = counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0
    return {
        "input_tokens": prompt,
        "output_tokens": sampled,
        "total_tokens": prompt + sampled,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _with_text(item: Json, custom: frozenset[str]) -> Json:
    """The item; a call of a custom tool has a text in place of arguments."""
    if item["type"] != "function_call" or item["name"] not in custom:
        return item
    text = custom_text(item["arguments"])
    rest = {name: value for name, value in item.items() if name != "arguments"}
    return {**rest, "type": "custom_tool_call", "input": text, "id": item["id"].replace("fc_", "ctc_", 1)}


def _carried(items: list[Any]) -> Prefix | None:
    """The tokens of the last item that has some, and the number of messages up to it."""
    for number in range(len(items) - 1, -1, -1):
        prefix = carried_tokens(items[number], 0)
        if prefix is not None:
            return replace(prefix, length=len(MessageReader().read_items(items[: number + 1], "input")))
    return None
