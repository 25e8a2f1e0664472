"""Request bodies of the OpenAI routes, checked and converted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..policies.types import Sampling
from ..store.messages import Message
from .bodies import Body
from .bounds import MAX_IDS, MAX_MESSAGES, refuse_many
from .errors import refused
from .fields import CHAT, COMPLETIONS, RequestField, given_fields
from .read_so_far import Prefix, ReadSoFar, is_ids, tools_of
from .shaping import read_shaping
from .tools import ToolChoice, read_choice

_LARGEST_SEED = 2**63 - 1
_MOST_CHOICES, _MOST_TOP = 128, 20


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
        read: How the messages were read, for the conversation's next request; None for a completion.
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
    read: ReadSoFar | None = field(default=None, repr=False, compare=False)

    @property
    def read_calls(self) -> bool:
        """Whether tool calls in the answer are parsed; otherwise they stay text."""
        return bool(self.tools) and self.choice.mode != "none"


def read_chat(body: Body, before: ReadSoFar | None = None) -> ModelRequest:
    """A body of `/v1/chat/completions`. Raises ApiError that names the wrong field.

    Args:
        before: What was read of the conversation's last request. It is used up.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refused("`messages` must be a list of at least one message.")
    refuse_many(messages, MAX_MESSAGES, "messages")
    refuse_many(body.get("tools"), MAX_MESSAGES, "tools")
    read = ReadSoFar.of(messages, before)
    parsed = common(body, _first(body, "max_completion_tokens", "max_tokens"), CHAT)
    tools = tools_of(listed(body, "tools"))
    strict = any(tool["function"].get("strict") for tool in tools.listed)
    template = body.get("chat_template_kwargs") or {}
    if not isinstance(template, dict):
        raise refused("`chat_template_kwargs` must be an object.")
    return replace(
        parsed,
        messages=read.messages,
        tools=tools.listed,
        custom=tools.custom,
        choice=read_choice(body.get("tool_choice"), tools.names()),
        prefix=read.carried(body.get("required_prefix_token_ids")),
        template=template,
        noted=(*parsed.noted, *(["strict"] if strict else []), *tools.ignored),
        gaps=(*tools.gaps(), *read.gaps),
        read=read,
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
