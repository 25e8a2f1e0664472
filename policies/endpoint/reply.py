"""What a chat endpoint answered: the message, why it ended, and the tokens of endpoints that show them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...store.messages import Message
from ...store.reading import read_message


@dataclass(frozen=True)
class CallTokens:
    """The tokens of one model call, as the endpoint returns them.

    Attributes:
        prompt_ids: The whole prompt of this call.
        token_ids: What was sampled, at least one token, the end of turn included where it was sampled.
        logprobs: Parallel to token_ids.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        tokens: None when the endpoint returns none, or none that fit together.
        usage: Token counts as the endpoint reports them; None when it does not.
        logprobs: The entries of the choice's `logprobs.content`; None when there are none.
    """

    message: Message
    stop_reason: str
    tokens: CallTokens | None
    usage: Mapping[str, Any] | None = None
    logprobs: list[dict[str, Any]] | None = None


def read_reply(body: bytes) -> Reply:
    """Reads a chat completion. Raises ValueError, saying what is missing, when it is none."""
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        sent = choice["message"]
        message = read_message({**sent, "role": "assistant"})
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error
    stop_reason = "length" if choice.get("finish_reason") == "length" else "stop"
    usage, logprobs = reply.get("usage"), choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return Reply(
        message,
        stop_reason,
        _tokens(reply, choice, sent),
        usage if isinstance(usage, dict) else None,
        content if isinstance(content, list) else None,
    )


def _tokens(reply: dict[str, Any], choice: dict[str, Any], message: dict[str, Any]) -> CallTokens | None:
    """NeMo Gym's fields on the message, or vLLM's on the reply and the choice."""
    found: tuple[Any, Any, Any]
    if "generation_token_ids" in message:
        found = (message.get("prompt_token_ids"), message["generation_token_ids"], message.get("generation_log_probs"))
    elif choice.get("token_ids"):
        content = (choice.get("logprobs") or {}).get("content") or []
        found = (reply.get("prompt_token_ids"), choice["token_ids"], [entry.get("logprob") for entry in content])
    else:
        return None
    prompt, sampled, logprobs = found
    if not (_are((int,), prompt) and _are((int,), sampled) and _are((float, int), logprobs)):
        return None
    fit = len(sampled) == len(logprobs) and all(map(math.isfinite, logprobs))
    return CallTokens(prompt, sampled, logprobs) if fit else None


def _are(kinds: tuple[type, ...], values: Any) -> bool:
    """Whether it is a list of such values and not empty."""
    return isinstance(values, list) and bool(values) and {*map(type, values)} <= {*kinds}
