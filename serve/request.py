"""Request bodies of the OpenAI routes, checked and converted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..base.errors import SchemaMismatch
from ..policies.types import Sampling
from ..store.messages import Message
from ..store.reading import MessageReader
from .bounds import MAX_IDS, MAX_MESSAGES, refuse_expansion, refuse_many
from .decoding import decoded
from .errors import refused

Body = dict[str, Any]

# Fields that would change the answer and are not supported, with the values that change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "text": ({"format": {"type": "text"}},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "web_search_options": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "truncate_prompt_tokens": (),
    "echo": (False,),
    "suffix": ("",),
    "background": (False,),
    "previous_response_id": (),
    "conversation": (),
    "prompt_cache_retention": (),
}
_ROLES = {"developer": "system", "function": "tool", **{role: role for role in ("system", "user", "assistant", "tool")}}
_LARGEST_SEED = 2**63 - 1
_DEEPEST = 100  # levels of lists and objects; every reader of the journal can handle as many


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
        prompt: Text or token ids of a completion; None for a conversation.
        sampling: Its `max_tokens` is not used.
        max_tokens: None is the rest of the context.
        stop: Strings that end the answer; they are not part of it.
        read_calls: Whether tool calls in the answer are parsed; otherwise they stay text.
        tokens_as_ids: Whether the list of logprobs shows tokens as ids.
        show_tokens: Whether the answer has token ids.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt: str | list[int] | None = None
    prefix: Prefix | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    read_calls: bool = False
    logprobs: bool = False
    tokens_as_ids: bool = False
    stream: bool = False
    stream_usage: bool = False
    show_tokens: bool = True


def read_chat(body: Body) -> ModelRequest:
    """A body of `/v1/chat/completions`. Raises ApiError that names the wrong or unsupported field."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refused("`messages` must be a list of at least one message.")
    refuse_many(messages, MAX_MESSAGES, "messages")
    refuse_many(body.get("tools"), MAX_MESSAGES, "tools")
    read, ends = _messages(messages)
    parsed = common(body, _first(body, "max_completion_tokens", "max_tokens"))
    tools = tuple(_tool(tool, number) for number, tool in enumerate(listed(body, "tools")))
    return replace(
        parsed, messages=read, tools=tools, prefix=_carried(body, messages, ends), read_calls=reads_calls(body, tools)
    )


def read_completion(body: Body) -> ModelRequest:
    """A body of `/v1/completions`. Raises ApiError."""
    prompt = body.get("prompt")
    refuse_many(prompt, MAX_IDS, "prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if not (isinstance(prompt, str) or is_ids(prompt)) or not prompt:
        raise refused("`prompt` must be one string or one list of token ids, and not empty.")
    wanted = body.get("logprobs")
    if wanted is not None and wanted not in (0, 1):
        raise refused(
            "`logprobs` above 1 is not supported: only the sampled token's logprob is returned.", "unsupported"
        )
    return replace(common(body | {"logprobs": wanted is not None}, body.get("max_tokens")), prompt=prompt)


def common(body: Body, max_tokens: Any) -> ModelRequest:
    """The fields that all routes share. Raises ApiError."""
    _refuse_unsupported(body)
    seed = _whole(body, "seed", None, -_LARGEST_SEED - 1, _LARGEST_SEED)
    top_k = _whole(body, "top_k", -1, -1, 2**31 - 1)
    sampling = Sampling(
        temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
        top_p=_number(body, "top_p", 1.0, 1e-9, 1.0),
        top_k=top_k or -1,
        min_p=_number(body, "min_p", 0.0, 0.0, 1.0),
        seed=seed,
    )
    options = body.get("stream_options") or {}
    return ModelRequest(
        sampling=sampling,
        max_tokens=_whole({"max_tokens": max_tokens}, "max_tokens", None, 1, 2**31 - 1),
        stop=_stops(body),
        logprobs=bool(body.get("logprobs")),
        tokens_as_ids=bool(body.get("return_tokens_as_token_ids")),
        stream=bool(body.get("stream")),
        stream_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        show_tokens=body.get("return_token_ids") is not False,
    )


def reads_calls(body: Body, tools: tuple[Mapping[str, Any], ...]) -> bool:
    """Whether tool calls of the answer are parsed. Raises ApiError for a choice that forces a call."""
    choice = body.get("tool_choice") or "auto"
    if choice not in ("auto", "none"):
        raise refused("`tool_choice` must be auto or none: forcing a call is not supported.", "unsupported")
    return bool(tools) and choice == "auto"


def listed(body: Body, name: str) -> list[Any]:
    """A field that is a list or absent. Raises ApiError."""
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise refused(f"`{name}` must be a list.")
    return value or []


def is_ids(value: Any) -> bool:
    """Whether it is a list of token ids."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**31 for item in value)


def body_of(raw: bytes) -> Body:
    """A request's bytes as a JSON object; no bytes are an empty object. Raises ApiError.

    The bytes must be UTF-8: Python would guess UTF-16 and UTF-32, and pass over surrogates.
    """
    refuse_expansion(raw)
    try:
        text = raw.decode("utf-8")
        body = decoded(text) if text.strip() else {}
        if not isinstance(body, dict):
            raise refused("The body must be a JSON object.")
        # Half of a surrogate pair is not text that a tokenizer or a table can hold.
        deep = _is_deep(body, texts=b"\\ud" in raw.lower())
    except (ValueError, RecursionError) as error:
        raise refused(f"The body is not JSON: {str(error)[:200]}.") from error
    if deep:
        raise refused(f"The body is nested more than {_DEEPEST} levels deep.")
    return body


def _is_deep(body: Body, texts: bool) -> bool:
    """Whether the body is nested too deep. Looks at its texts, too, if `texts`, and raises ValueError for one that UTF-8 cannot hold."""
    level: list[Any] = [body]
    for _ in range(_DEEPEST):
        values = [value for one in level for value in ((*one, *one.values()) if isinstance(one, dict) else one)]
        if texts:
            for value in values:
                if isinstance(value, str):
                    value.encode()
        level = [value for value in values if isinstance(value, (dict, list))]
    return bool(level)


def _refuse_unsupported(body: Body) -> None:
    for name in body.keys() & _UNSUPPORTED.keys():
        value = body[name]
        if value is not None and value not in _UNSUPPORTED[name]:
            raise refused(f"`{name}` is not supported; leave it out.", "unsupported")


def _messages(given: list[Any]) -> tuple[tuple[Message, ...], list[int]]:
    """The messages, and parallel to `given` how many of them each message and those before it stand for. Raises ApiError."""
    reader, read, ends = MessageReader(), [], []
    for number, message in enumerate(given):
        where = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise refused(f"`{where}` needs a role: {', '.join(_ROLES)}.")
        try:
            read += reader.read_one({**message, "role": _ROLES[role]}, where)
        except SchemaMismatch as error:
            raise refused(f"A message cannot be read: {error.message}") from error
        if any(one.parts is not None for one in read):
            raise refused(f"`{where}.content` must be text: images and other parts are not supported.", "unsupported")
        ends.append(len(read))
    return tuple(read), ends


def _tool(tool: Any, number: int) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or tool.get("type") != "function":
        raise refused(f"`tools[{number}]` must be a function with a name.")
    return tool


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


def _whole(body: Body, name: str, default: int | None, low: int, high: int) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise refused(f"`{name}` must be a whole number from {low} to {high}.")
    return value
