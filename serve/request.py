"""Request bodies of the OpenAI routes, checked and converted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..base.errors import SchemaMismatch
from ..policies.types import Sampling
from ..store.messages import Message
from ..store.reading import MessageReader
from .bodies import Body
from .bounds import MAX_IDS, MAX_MESSAGES, refuse_many
from .errors import refused
from .fields import CHAT, COMPLETIONS, RequestField, given_fields
from .shaping import read_shaping
from .tools import ToolChoice, function_calls, read_choice, read_request_tools

_ROLES = {"developer": "system", "function": "tool", **{role: role for role in ("system", "user", "assistant", "tool")}}
_LARGEST_SEED = 2**63 - 1
_MOST_CHOICES, _MOST_TOP = 128, 20
_INDEX = re.compile(r"\[\d+\]")
# What servers add to a turn and clients send back with it.
_ECHOED = {"prompt_token_ids", "generation_token_ids", "generation_log_probs", "annotations", "audio", "cache_control", "phase", "signature", "caller", "citations"}  # fmt: skip


@dataclass(frozen=True)
class Prefix:
    """Tokens that a message of the request carries: prompt and sampled tokens up to and including that message.

    `length` is the number of messages that they stand for.
    """

    token_ids: list[int]
    length: int


@dataclass(frozen=True)
class ModelRequest:
    """One request for a model call.

    Attributes:
        custom: Names of tools whose calls have a text instead of an object.
        prompt: Text or token ids of a completion; None for a conversation.
        sampling: Its `max_tokens` is not used.
        max_tokens: None is the rest of the context.
        stop: Strings that end the answer; they are not part of it.
        n: Number of answers.
        template: Settings of the chat template for this request.
        tokens_as_ids: Whether the list of logprobs shows tokens as ids.
        show_tokens: Whether the answer has token ids; None leaves it to the server.
        given: The request's other fields, in chat form, for an endpoint behind the server.
        noted: Names of fields that have no effect with the server's own engines.
        refused: Names of fields that the server's own engines cannot honour.
        gaps: What was dropped or not read, named in the row.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    custom: frozenset[str] = frozenset()
    choice: ToolChoice = field(default_factory=ToolChoice)
    prompt: str | list[int] | None = None
    prefix: Prefix | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    template: Mapping[str, Any] = field(default_factory=dict)
    logprobs: bool = False
    tokens_as_ids: bool = False
    stream: bool = False
    stream_usage: bool = False
    show_tokens: bool | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    noted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def read_calls(self) -> bool:
        """Whether tool calls in the answer are parsed; otherwise they stay text."""
        return bool(self.tools) and self.choice.mode != "none"


def read_chat(body: Body) -> ModelRequest:
    """A body of `/v1/chat/completions`. Raises ApiError that names the wrong field."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refused("`messages` must be a list of at least one message.")
    refuse_many(messages, MAX_MESSAGES, "messages")
    refuse_many(body.get("tools"), MAX_MESSAGES, "tools")
    read, ends, unread = _messages(messages)
    parsed = common(body, _first(body, "max_completion_tokens", "max_tokens"), CHAT)
    tools = read_request_tools(listed(body, "tools"))
    strict = any(tool["function"].get("strict") for tool in tools.listed)
    template = body.get("chat_template_kwargs") or {}
    if not isinstance(template, dict):
        raise refused("`chat_template_kwargs` must be an object.")
    return replace(
        parsed,
        messages=read,
        tools=tools.listed,
        custom=tools.custom,
        choice=read_choice(body.get("tool_choice"), tools.names()),
        prefix=_carried(body, messages, ends),
        template=template,
        noted=(*parsed.noted, *(["strict"] if strict else [])),
        gaps=(*tools.gaps(), *unread),
    )


def read_completion(body: Body) -> ModelRequest:
    """A body of `/v1/completions`. Raises ApiError."""
    prompt = body.get("prompt")
    refuse_many(prompt, MAX_IDS, "prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if not (isinstance(prompt, str) or is_ids(prompt)) or not prompt:
        raise refused("`prompt` must be one string or one list of token ids, and not empty.")
    wanted = whole(body, "logprobs", None, 0, _MOST_TOP)
    settings = body | {"logprobs": wanted is not None, "top_logprobs": wanted or 0}
    return replace(common(settings, body.get("max_tokens"), COMPLETIONS), prompt=prompt)


def common(body: Body, max_tokens: Any, fields: Mapping[str, RequestField]) -> ModelRequest:
    """The fields that all routes share. Raises ApiError."""
    given = given_fields(body, fields)
    top = whole(body, "top_logprobs", 0, 0, _MOST_TOP)
    if top and not body.get("logprobs"):
        raise refused("`top_logprobs` needs `logprobs`: true.")
    sampling = Sampling(
        temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
        top_p=_number(body, "top_p", 1.0, 1e-9, 1.0),
        top_k=whole(body, "top_k", -1, -1, 2**31 - 1) or -1,
        min_p=_number(body, "min_p", 0.0, 0.0, 1.0),
        seed=whole(body, "seed", None, -_LARGEST_SEED - 1, _LARGEST_SEED),
        shaping=read_shaping(body),
        top_logprobs=top,
    )
    options = body.get("stream_options") or {}
    return ModelRequest(
        sampling=sampling,
        max_tokens=whole({"max_tokens": max_tokens}, "max_tokens", None, 1, 2**31 - 1),
        stop=_stops(body),
        n=whole(body, "n", 1, 1, _MOST_CHOICES),
        logprobs=bool(body.get("logprobs")),
        tokens_as_ids=bool(body.get("return_tokens_as_token_ids")),
        stream=bool(body.get("stream")),
        stream_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        show_tokens=None if body.get("return_token_ids") is None else bool(body["return_token_ids"]),
        given={name: value for name, value in body.items() if name not in ("messages", "tools", "prompt")},
        noted=given.noted,
        refused=given.refused,
    )


def listed(body: Body, name: str) -> list[Any]:
    """A field that is a list or absent. Raises ApiError."""
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise refused(f"`{name}` must be a list.")
    return value or []


def is_ids(value: Any) -> bool:
    """Whether it is a list of token ids."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**31 for item in value)


def _messages(given: list[Any]) -> tuple[tuple[Message, ...], list[int], list[str]]:
    """The messages, parallel to `given` how many of them each message and those before it stand for, and a gap for each kind of unread field.

    Raises ApiError.
    """
    reader, read, ends = MessageReader(), [], []
    for number, message in enumerate(given):
        where = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise refused(f"`{where}` needs a role: {', '.join(_ROLES)}.")
        message = {name: value for name, value in message.items() if name not in _ECHOED} | {"role": _ROLES[role]}
        try:
            read += reader.read_one(function_calls(message), where)
        except SchemaMismatch as error:
            raise refused(f"A message cannot be read: {error.message}") from error
        ends.append(len(read))
    return tuple(read), ends, unread_gaps(reader)


def unread_gaps(reader: MessageReader) -> list[str]:
    """A gap for each kind of field that no message took, such as `unread:messages[].name`."""
    paths = (path for path in reader.unread if path.rsplit(".", 1)[-1] not in _ECHOED)
    return sorted({f"unread:{_INDEX.sub('[]', path)}" for path in paths})


def _carried(body: Body, messages: list[Any], ends: list[int]) -> Prefix | None:
    """The tokens that the request requires, else those of the latest message that carries some; `ends` as in `_messages`."""
    required = body.get("required_prefix_token_ids")
    refuse_many(required, MAX_IDS, "required_prefix_token_ids")
    assistants = [number for number, message in enumerate(messages) if message.get("role") == "assistant"]
    if is_ids(required) and required and assistants:
        return Prefix(required, ends[assistants[-1]])
    for number in reversed(assistants):
        prefix = carried_tokens(messages[number], ends[number])
        if prefix is not None:
            return prefix
    return None


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


def _stops(body: Body) -> tuple[str, ...]:
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise refused("`stop` must be a string or a list of strings.")
    return tuple(text for text in stops if text)


def _first(body: Body, *names: str) -> Any:
    return next((body[name] for name in names if body.get(name) is not None), None)


def _number(body: Body, name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not low <= value <= high  # neither NaN nor an integer that no float holds
    ):
        raise refused(f"`{name}` must be a number from {low:g} to {high:g}.")
    return float(value)


def whole(body: Body, name: str, default: int | None, low: int, high: int) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise refused(f"`{name}` must be a whole number from {low} to {high}.")
    return value
