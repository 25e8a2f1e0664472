"""Answers as OpenAI's JSON, with the token fields of NeMo Gym (on the message) and of vLLM (on the reply and the choice)."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from .answers import ModelAnswer
from .request import ModelRequest
from .tools import chat_calls

Json = dict[str, Any]
Text = Callable[[list[int]], str]
"""Token ids to their text."""


def chat_reply(parsed: ModelRequest, answers: Sequence[ModelAnswer], model: str, text: Text) -> Json:
    """The body of a chat completion with a choice for each answer."""
    choices = [{"index": index, **chat_choice(parsed, answer, text)} for index, answer in enumerate(answers)]
    reply = {**head("chatcmpl", "chat.completion", model), "choices": choices, "usage": usage(answers)}
    if parsed.show_tokens and answers[0].token_ids is not None:
        reply["prompt_token_ids"] = answers[0].prompt_ids
    return reply


def chat_choice(parsed: ModelRequest, answer: ModelAnswer, text: Text) -> Json:
    """One choice of a chat completion, without its index."""
    message: Json = {"role": "assistant", "content": answer.message.text, "refusal": None}
    if answer.message.reasoning is not None:
        message["reasoning_content"] = answer.message.reasoning
    if answer.message.tool_calls:
        message["tool_calls"] = chat_calls(answer.message, parsed.custom)
    choice = {"message": message, "finish_reason": finish_reason(answer), "logprobs": chat_logprobs(parsed, answer, text)}  # fmt: skip
    if parsed.show_tokens and answer.token_ids is not None:
        message.update(token_fields(answer))
        choice["token_ids"] = answer.token_ids
    return choice


def completion_reply(parsed: ModelRequest, answers: Sequence[ModelAnswer], model: str, text: Text) -> Json:
    """The body of a text completion with a choice for each answer."""
    choices = []
    for index, answer in enumerate(answers):
        reason = "length" if answer.stop_reason == "length" else "stop"
        choice: Json = {"index": index, "text": answer.message.text or "", "finish_reason": reason, "logprobs": None}
        if parsed.logprobs and answer.logprobs is not None and answer.token_ids is not None:
            choice["logprobs"] = _completion_logprobs(parsed, answer, text)
        if parsed.show_tokens and answer.token_ids is not None:
            choice |= {"prompt_token_ids": answer.prompt_ids, "token_ids": answer.token_ids, **token_fields(answer)}
        choices.append(choice)
    return {**head("cmpl", "text_completion", model), "choices": choices, "usage": usage(answers)}


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


def usage(answers: Sequence[ModelAnswer]) -> Json:
    """Token counts, of one prompt and all answers; those that an endpoint reports where it does not return tokens, 0 where it does not report them."""
    first = answers[0]
    if first.token_ids is None and first.usage is not None:
        if len(answers) == 1:
            return dict(first.usage)
        reported = [answer.usage or {} for answer in answers]
        prompt, sampled = _count(reported[0], "prompt_tokens"), sum(_count(one, "completion_tokens") for one in reported)  # fmt: skip
    else:
        prompt, sampled = len(first.prompt_ids or ()), sum(len(answer.token_ids or ()) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def _count(reported: Any, name: str) -> int:
    value = reported.get(name)
    return value if isinstance(value, int) else 0


def head(prefix: str, kind: str, model: str) -> Json:
    """id, object, created and model of a reply."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def chat_logprobs(parsed: ModelRequest, answer: ModelAnswer, text: Text) -> Json | None:
    """The `logprobs` of a choice; None when they are not wanted or not known."""
    if not parsed.logprobs:
        return None
    if answer.shown_logprobs is not None:
        return {"content": answer.shown_logprobs, "refusal": None}
    if answer.logprobs is None or answer.token_ids is None:
        return None
    entries = []
    tops = answer.top or [[]] * len(answer.token_ids)
    for token, logprob, top in zip(answer.token_ids, answer.logprobs, tops, strict=True):
        likeliest = [_entry(parsed, other, its, text) for other, its in top]
        entries.append({**_entry(parsed, token, logprob, text), "top_logprobs": likeliest})
    return {"content": entries, "refusal": None}


def _entry(parsed: ModelRequest, token: int, logprob: float, text: Text) -> Json:
    shown = _shown(parsed, token, text)
    return {"token": shown, "logprob": logprob, "bytes": list(shown.encode())}


def _shown(parsed: ModelRequest, token: int, text: Text) -> str:
    return f"token_id:{token}" if parsed.tokens_as_ids else text([token])


def _completion_logprobs(parsed: ModelRequest, answer: ModelAnswer, text: Text) -> Json:
    token_ids, logprobs = answer.token_ids or [], answer.logprobs or []
    tokens = [_shown(parsed, token, text) for token in token_ids]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    tops: list[dict[str, float]] = [
        {_shown(parsed, other, text): its for other, its in top} for top in answer.top or [[]] * len(tokens)
    ]
    for top, token, logprob in zip(tops, tokens, logprobs, strict=True):
        top[token] = logprob
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}
