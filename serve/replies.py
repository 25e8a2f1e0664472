"""Answers as OpenAI's JSON, with the token fields of NeMo Gym (on the message) and of vLLM (on the reply and the choice)."""

import time
import uuid
from collections.abc import Callable
from typing import Any

from .backends import ModelAnswer
from .request import ModelRequest

Json = dict[str, Any]
Text = Callable[[list[int]], str]
"""Token ids to their text."""


def chat_reply(parsed: ModelRequest, answer: ModelAnswer, model: str, text: Text) -> Json:
    """The body of a chat completion."""
    message: Json = {"role": "assistant", "content": answer.message.text, "refusal": None}
    if answer.message.reasoning is not None:
        message["reasoning_content"] = answer.message.reasoning
    if answer.message.tool_calls:
        message["tool_calls"] = answer.message.to_openai()["tool_calls"]
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(answer), "logprobs": None}
    if parsed.logprobs and answer.logprobs is not None:
        choice["logprobs"] = {"content": _chat_logprobs(parsed, answer, text), "refusal": None}
    reply = {**head("chatcmpl", "chat.completion", model), "choices": [choice], "usage": usage(answer)}
    if parsed.show_tokens and answer.token_ids is not None:
        message.update(token_fields(answer))
        choice["token_ids"], reply["prompt_token_ids"] = answer.token_ids, answer.prompt_ids
    return reply


def completion_reply(parsed: ModelRequest, answer: ModelAnswer, model: str, text: Text) -> Json:
    """The body of a text completion."""
    reason = "length" if answer.stop_reason == "length" else "stop"
    choice: Json = {"index": 0, "text": answer.message.text or "", "finish_reason": reason, "logprobs": None}
    if parsed.logprobs and answer.logprobs is not None and answer.token_ids is not None:
        choice["logprobs"] = _completion_logprobs(parsed, answer.token_ids, answer.logprobs, text)
    if parsed.show_tokens and answer.token_ids is not None:
        choice |= {"prompt_token_ids": answer.prompt_ids, "token_ids": answer.token_ids, **token_fields(answer)}
    return {**head("cmpl", "text_completion", model), "choices": [choice], "usage": usage(answer)}


def token_fields(answer: ModelAnswer) -> Json:
    """NeMo Gym's three fields."""
    return {
        "prompt_token_ids": answer.prompt_ids,
        "generation_token_ids": answer.token_ids,
        "generation_log_probs": answer.logprobs,
    }


def finish_reason(answer: ModelAnswer) -> str:
    """length, tool_calls or stop."""
    if answer.stop_reason == "length":
        return "length"
    return "tool_calls" if answer.message.tool_calls else "stop"


def usage(answer: ModelAnswer) -> Json:
    """Token counts; 0 where an endpoint does not return its tokens."""
    prompt, sampled = len(answer.prompt_ids or ()), len(answer.token_ids or ())
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def head(prefix: str, kind: str, model: str) -> Json:
    """id, object, created and model of a reply."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _chat_logprobs(parsed: ModelRequest, answer: ModelAnswer, text: Text) -> list[Json]:
    entries = []
    for token, logprob in zip(answer.token_ids or (), answer.logprobs or (), strict=True):
        token_text = f"token_id:{token}" if parsed.tokens_as_ids else text([token])
        entries.append(
            {"token": token_text, "logprob": logprob, "bytes": list(token_text.encode()), "top_logprobs": []}
        )
    return entries


def _completion_logprobs(parsed: ModelRequest, token_ids: list[int], logprobs: list[float], text: Text) -> Json:
    tokens = [f"token_id:{token}" if parsed.tokens_as_ids else text([token]) for token in token_ids]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    tops = [{token: logprob} for token, logprob in zip(tokens, logprobs, strict=True)]
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}
