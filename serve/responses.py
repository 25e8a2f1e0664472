"""The Responses API in the shape NeMo Gym's agents use: input items in, output items out, tokens on the last item of the turn."""

from dataclasses import replace
from typing import Any

from ..interop.responses import flat_tools, output_items
from ..store.items import TokenCall
from ..store.messages import Message
from ..store.reading import MessageReader
from ..store.tool_schemas import read_tools
from .backends import ModelAnswer
from .errors import refused
from .replies import Json, finish_reason, head
from .request import Body, ModelRequest, Prefix, carried_tokens, common, listed, read_chat, reads_calls

_ITEMS = ("message", "function_call", "function_call_output", "reasoning")


def read_response(body: Body) -> ModelRequest:
    """A body of `/v1/responses`. Raises ApiError that names the wrong or unsupported field."""
    source = body.get("input")
    if not source or not isinstance(source, (str, list)):
        raise refused("`input` must be a string or a list of items, and not empty.")
    items = source if isinstance(source, list) else []
    for number, item in enumerate(items):
        if not isinstance(item, dict) or _kind(item) not in _ITEMS:
            raise refused(f"`input[{number}]` must be one of {', '.join(_ITEMS)}.", "unsupported")
    try:
        messages = MessageReader().read_items(items, "input") if items else [Message("user", str(source))]
        prefix = _carried(items)
        tools = tuple(read_tools(listed(body, "tools")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refused(f"`input` cannot be read: {type(error).__name__}: {error}.") from error
    instructions = body.get("instructions")
    if isinstance(instructions, str):
        messages = [Message("system", instructions), *messages]
        prefix = prefix and replace(prefix, length=prefix.length + 1)
    # Through the chat route's reader, so that both routes accept the same requests.
    checked = read_chat({"messages": [message.to_openai() for message in messages], "tools": list(tools)})
    parsed = common({**body, "logprobs": False}, body.get("max_output_tokens"))
    read_calls = reads_calls(body, checked.tools)
    return replace(parsed, messages=checked.messages, tools=checked.tools, prefix=prefix, read_calls=read_calls)


def response_reply(parsed: ModelRequest, body: Body, answer: ModelAnswer, model: str) -> Json:
    """The body of a response."""
    calls = None
    if (
        parsed.show_tokens
        and answer.token_ids is not None
        and answer.prompt_ids is not None
        and answer.logprobs is not None
    ):
        calls = [TokenCall(answer.prompt_ids, answer.token_ids, answer.logprobs)]
    reply = head("resp", "response", model)
    items = output_items([answer.message], calls)
    for number, item in enumerate(items):
        item["id"] = f"{item['id'].split('_')[0]}_{reply['id'].removeprefix('resp-')}_{number}"
    cut = finish_reason(answer) == "length"
    prompt, sampled = len(answer.prompt_ids or ()), len(answer.token_ids or ())
    return {
        "id": reply["id"],
        "object": "response",
        "created_at": reply["created"],
        "model": model,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "error": None,
        "output": items,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "temperature": parsed.sampling.temperature,
        "top_p": parsed.sampling.top_p,
        "max_output_tokens": parsed.max_tokens,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": flat_tools([dict(tool) for tool in parsed.tools]),
        "usage": {
            "input_tokens": prompt,
            "output_tokens": sampled,
            "total_tokens": prompt + sampled,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _carried(items: list[Any]) -> Prefix | None:
    """The tokens of the last item that has some, and the number of messages up to it."""
    for number in range(len(items) - 1, -1, -1):
        prefix = carried_tokens(items[number], 0)
        if prefix is not None:
            return replace(prefix, length=len(MessageReader().read_items(items[: number + 1], "input")))
    return None


def _kind(item: dict[str, Any]) -> str:
    if "type" in item:
        return str(item["type"])
    return "message" if "role" in item else ""
