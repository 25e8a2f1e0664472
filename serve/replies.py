"""Answers as OpenAI's JSON, with the token fields of NeMo Gym (on the message) and of vLLM (on the reply and the choice)."""

import time
import uuid
from collections.abc import Callable
from typing import Any

from .asked import Asked
from .backends import Given

Json = dict[str, Any]
Text = Callable[[list[int]], str]
"""Token ids to their text."""


def chat_reply(asked: Asked, given: Given, model: str, text: Text) -> Json:
    """The body of a chat completion."""
    message: Json = {"role": "assistant", "content": given.message.text, "refusal": None}
    if given.message.reasoning is not None:
        message["reasoning_content"] = given.message.reasoning
    if given.message.tool_calls:
        message["tool_calls"] = given.message.to_openai()["tool_calls"]
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(given), "logprobs": None}
    if asked.logprobs and given.logprobs is not None:
        choice["logprobs"] = {"content": _chat_logprobs(asked, given, text), "refusal": None}
    reply = {**head("chatcmpl", "chat.completion", model), "choices": [choice], "usage": usage(given)}
    if asked.show_tokens and given.token_ids is not None:
        message.update(token_fields(given))
        choice["token_ids"], reply["prompt_token_ids"] = given.token_ids, given.prompt_ids
    return reply


def completion_reply(asked: Asked, given: Given, model: str, text: Text) -> Json:
    """The body of a text completion."""
    reason = "length" if given.stop_reason == "length" else "stop"
    choice: Json = {"index": 0, "text": given.message.text or "", "finish_reason": reason, "logprobs": None}
    if asked.logprobs and given.logprobs is not None and given.token_ids is not None:
        choice["logprobs"] = _completion_logprobs(asked, given.token_ids, given.logprobs, text)
    if asked.show_tokens and given.token_ids is not None:
        choice |= {"prompt_token_ids": given.prompt_ids, "token_ids": given.token_ids, **token_fields(given)}
    return {**head("cmpl", "text_completion", model), "choices": [choice], "usage": usage(given)}


def token_fields(given: Given) -> Json:
    """NeMo Gym's three fields."""
    return {
        "prompt_token_ids": given.prompt_ids,
        "generation_token_ids": given.token_ids,
        "generation_log_probs": given.logprobs,
    }


def finish_reason(given: Given) -> str:
    """length, tool_calls or stop."""
    if given.stop_reason == "length":
        return "length"
    return "tool_calls" if given.message.tool_calls else "stop"


def usage(given: Given) -> Json:
    """Token counts; 0 where an endpoint does not show its tokens."""
    prompt, sampled = len(given.prompt_ids or ()), len(given.token_ids or ())
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def head(prefix: str, kind: str, model: str) -> Json:
    """id, object, created and model of a reply."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _chat_logprobs(asked: Asked, given: Given, text: Text) -> list[Json]:
    entries = []
    for token, logprob in zip(given.token_ids or (), given.logprobs or (), strict=True):
        said = f"token_id:{token}" if asked.tokens_as_ids else text([token])
        entries.append({"token": said, "logprob": logprob, "bytes": list(said.encode()), "top_logprobs": []})
    return entries


def _completion_logprobs(asked: Asked, token_ids: list[int], logprobs: list[float], text: Text) -> Json:
    tokens = [f"token_id:{token}" if asked.tokens_as_ids else text([token]) for token in token_ids]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    tops = [{token: logprob} for token, logprob in zip(tokens, logprobs, strict=True)]
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}
