"""A conversation as the body of a chat request. What repeats is encoded once: the tools of a task are tens of kilobytes in every request."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...base.remembered import remembered
from ...store.task import Task
from ..types import Conversation, Sampling

_KEPT_PROMPTS = 512
_KEPT_TOOLS = 32


class RequestEncoder:
    """Encodes requests for one model. JSON escapes whatever is not ASCII, so that any text a model wrote can be sent back to it.

    `fields` go into every request as they are.
    """

    def __init__(self, model: str, fields: Mapping[str, Any]) -> None:
        self._start = _json({"model": model, **fields})[:-1]
        self._tools = remembered(_encoded_tools, _KEPT_TOOLS)
        self._prompt = remembered(self._encoded_prompt, _KEPT_PROMPTS)

    def body(self, conversation: Conversation, sampling: Sampling, tokens_so_far: Sequence[int] = ()) -> bytes:
        """The request for the next turn. `tokens_so_far` are asked for as the beginning of its prompt."""
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
        if tokens_so_far:
            settings["required_prefix_token_ids"] = list(tokens_so_far)
        return b"".join((self._start, self._prompt(task), messages, b"],", _json(settings)[1:]))

    def _encoded_prompt(self, task: Task) -> bytes:
        tools = self._tools(task.tools) if task.tools else b""
        messages = b",".join(_json(message.to_openai()) for message in task.messages)
        return tools + b',"messages":[' + messages


def _encoded_tools(tools: tuple[Mapping[str, Any], ...]) -> bytes:
    return b',"tools":' + _json([dict(tool) for tool in tools])


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
