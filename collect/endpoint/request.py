"""A conversation as the body of a chat request. What repeats is encoded once: the tools of a task are tens of kilobytes in every request."""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from ..types import Conversation, Sampling, Task

T = TypeVar("T")

_KEPT_PROMPTS = 512
_KEPT_TOOLS = 32


class RequestEncoder:
    """Encodes requests for one model. JSON escapes whatever is not ASCII, so that any text a model wrote can be sent back to it.

    `fields` go into every request as they are.
    """

    def __init__(self, model: str, fields: Mapping[str, Any]) -> None:
        self._start = _json({"model": model, **fields})[:-1]
        self._prompts: OrderedDict[Hashable, tuple[Any, bytes]] = OrderedDict()
        self._tools: OrderedDict[Hashable, tuple[Any, bytes]] = OrderedDict()

    def body(self, conversation: Conversation, sampling: Sampling) -> bytes:
        """The request for the next turn."""
        task = conversation.task
        messages = b"".join(b"," + _json(message.to_openai()) for message in conversation.messages)
        if not task.messages:
            messages = messages[1:]
        settings: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        # Not of OpenAI's own API: an endpoint that does not know them is told only when they are on, and may refuse.
        if sampling.top_k != -1:
            settings["top_k"] = sampling.top_k
        if sampling.min_p:
            settings["min_p"] = sampling.min_p
        if sampling.seed is not None:
            settings["seed"] = sampling.seed
        prompt = _kept(self._prompts, task, _KEPT_PROMPTS, self._prompt)
        return b"".join((self._start, prompt, messages, b"],", _json(settings)[1:]))

    def _prompt(self, task: Task) -> bytes:
        tools = _kept(self._tools, task.tools, _KEPT_TOOLS, _encoded_tools) if task.tools else b""
        messages = b",".join(_json(message.to_openai()) for message in task.messages)
        return tools + b',"messages":[' + messages


def _encoded_tools(tools: tuple[Mapping[str, Any], ...]) -> bytes:
    return b',"tools":' + _json([dict(tool) for tool in tools])


def _kept(cache: OrderedDict[Hashable, tuple[Any, bytes]], of: T, most: int, make: Callable[[T], bytes]) -> bytes:
    """What `make` gives for an object, remembered by the object's identity: hashing it would cost as much as encoding it."""
    kept = cache.get(id(of))
    if kept is None:
        kept = cache[id(of)] = (of, make(of))  # keeping the object keeps its id its own
        if len(cache) > most:
            cache.popitem(last=False)
    return kept[1]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
