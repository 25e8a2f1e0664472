"""Who answers a conversation: a token engine, a script that plays the ground truth, or an OpenAI-compatible endpoint."""

import asyncio
import json
from dataclasses import replace
from typing import Any

from ..store.errors import EngineError, one_line
from ..store.ids import hash_id
from ..store.messages import Message, ToolCall
from .chat import ChatFormat
from .engines.base import EngineRefused, PromptTooLong, TokenEngine
from .models import need
from .types import Conversation, Sampling, Turn, VersionSpan

DONE = "Done."
_REFUSALS = (400, 413, 422)  # an endpoint's last word on a request
_TOO_LONG = ("context length", "context_length", "context size")  # as vLLM, OpenAI and llama.cpp say it


class TokenPolicy:
    """A model behind a token engine. What it samples is kept as it was sampled; see `chat`.

    Attributes:
        policy_id: Weights hash of the model, or run_id of the online run whose weights the engine follows.
    """

    def __init__(self, engine: TokenEngine, chat: ChatFormat, policy_id: str) -> None:
        self.engine = engine.kind
        self.token_engine = engine
        self.chat = chat
        self.policy_id = policy_id
        self.token_identity = (chat.tokenizer_hash, chat.template_hash)

    @property
    def version(self) -> int:
        """Of the engine's weights."""
        return self.token_engine.version

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """Samples the next turn. A conversation that fills the context gives an empty turn with stop_reason `length`.

        A `sampling.seed` is the rollout's: the turn's number is added to it.
        """
        self._render_what_is_new(conversation)
        assert conversation.prompt_ids is not None
        seen = conversation.prompt_ids + conversation.token_ids
        room = self.token_engine.max_model_len - len(seen)
        if room < 1:
            version = self.token_engine.version
            return Turn(Message("assistant", ""), [], [], (VersionSpan(0, version),), "length")
        turns = [message for message in conversation.messages if message.role == "assistant"]
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + len(turns))
        # An engine that others use too may have more room than its handle was asked for.
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        generation = await self.token_engine.generate(seen, sampling)
        start = len(conversation.token_ids)
        conversation.token_ids += generation.token_ids
        conversation.loss_mask += [1] * len(generation.token_ids)
        conversation.logprobs += generation.logprobs
        for span in generation.version_spans:
            if not conversation.version_spans or conversation.version_spans[-1].version != span.version:
                conversation.version_spans.append(VersionSpan(start + span.start, span.version))
        first_call = sum(len(message.tool_calls) for message in turns)
        message, failures = self.chat.parse(generation.token_ids, first_call)
        return Turn(
            message,
            generation.token_ids,
            generation.logprobs,
            generation.version_spans,
            generation.stop_reason,
            failures,
        )

    def _render_what_is_new(self, conversation: Conversation) -> None:
        if conversation.prompt_ids is None:
            conversation.prompt_ids = self.chat.prompt_ids(conversation.task)
        elif conversation.messages:
            last = conversation.token_ids[-1] if conversation.token_ids else None
            suffix = self.chat.suffix_ids(conversation.task, conversation.messages, last)
            conversation.token_ids += suffix
            conversation.loss_mask += [0] * len(suffix)


class ScriptedPolicy:
    """Plays each task's ground truth, one call a turn, and says it is done; a truth that is an answer it gives as `\\boxed{answer}`.

    With probability `mistake_rate` it stops before the last call and says it is done all the same, or gives an answer that is wrong; which
    rollouts that happens to is decided by a hash of seed, task and sample index. Truths too long for one call a turn are played several calls a turn.
    """

    engine = "scripted"
    token_identity = None
    version = 0

    def __init__(self, mistake_rate: float = 0.0, seed: int = 0, max_turns: int = 6) -> None:
        self.mistake_rate = mistake_rate
        self.seed = seed
        self.max_turns = max_turns
        self.policy_id = f"scripted-{mistake_rate:g}"

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """The next calls of the ground truth, or the closing message. `sampling` is not used."""
        answer = conversation.task.ground_truth
        if isinstance(answer, str) and not conversation.task.tools:
            wrong = " + 1" if self._errs(conversation) else ""
            return Turn(Message("assistant", rf"The answer is \boxed{{{answer}{wrong}}}."))
        truth = self._calls(conversation)
        played = sum(len(message.tool_calls) for message in conversation.messages)
        a_turn = max(1, -(-len(truth) // max(1, self.max_turns - 1)))
        calls = truth[played : played + a_turn]
        return Turn(Message("assistant", None, calls) if calls else Message("assistant", DONE))

    def _calls(self, conversation: Conversation) -> tuple[ToolCall, ...]:
        truth = conversation.task.ground_truth
        if not isinstance(truth, list):
            raise EngineError("The scripted policy has no ground truth to play.", "Use tasks whose truth is a list of calls.")  # fmt: skip
        calls = tuple(ToolCall(f"call_{i}", call["name"], _text(call["arguments"])) for i, call in enumerate(truth))
        return calls[:-1] if calls and self._errs(conversation) else calls

    def _errs(self, conversation: Conversation) -> bool:
        if self.mistake_rate <= 0:
            return False
        draw = int(hash_id(self.seed, conversation.task.task_id, conversation.sample_index)[:8], 16)
        return draw / 2**32 < self.mistake_rate


class OpenAIPolicy:
    """An OpenAI-compatible chat endpoint. It shows messages only: such rollouts have no tokens.

    The client retries 429, 5xx and broken connections with growing pauses before a turn fails with EngineError.
    """

    engine = "openai"
    token_identity = None
    version = 0

    def __init__(
        self, url: str, model: str | None = None, api_key: str | None = None, timeout_s: float = 120, retries: int = 4
    ) -> None:
        """Asks the endpoint for its models, so that a wrong address is known at once. Raises MissingExtra, EngineError."""
        import os

        self._openai = need("openai")
        self.url = url if "/" in url.split("://")[-1].rstrip("/") else url.rstrip("/") + "/v1"
        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._settings: dict[str, Any] = {"base_url": self.url, "api_key": key, "timeout": timeout_s, "max_retries": retries}  # fmt: skip
        self._clients: tuple[asyncio.AbstractEventLoop, Any] | None = None
        self.policy_id = model or self._first_model()

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """One chat completion. Raises EngineRefused for what the endpoint refuses, PromptTooLong when its context is too small, else EngineError."""
        task = conversation.task
        request: dict[str, Any] = {
            "model": self.policy_id,
            "messages": [message.to_openai() for message in (*task.messages, *conversation.messages)],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if task.tools:
            request["tools"] = [dict(tool) for tool in task.tools]
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        try:
            reply = await self._client().chat.completions.create(**request)
        except self._openai.OpenAIError as error:
            raise self._failure(error) from error
        if not reply.choices:
            raise EngineError(f"The endpoint {self.url} gave no choice.", "Look at its log.")
        choice = reply.choices[0]
        message = Message.from_openai(choice.message.model_dump(exclude_none=True))
        return Turn(message, stop_reason="length" if choice.finish_reason == "length" else "stop")

    def _failure(self, error: Exception) -> EngineError:
        said = _without_stop(error)
        if getattr(error, "status_code", None) not in _REFUSALS:
            return EngineError(f"The endpoint {self.url} failed: {said}.", "Look at its log, then run the command again.")  # fmt: skip
        kind = PromptTooLong if any(words in said for words in _TOO_LONG) else EngineRefused
        return kind(f"The endpoint {self.url} refused: {said}.", "Asking again gives the same answer; see its log.")

    def _client(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._clients is None or self._clients[0] is not loop:
            self._clients = (loop, self._openai.AsyncOpenAI(**self._settings))
        return self._clients[1]

    def _first_model(self) -> str:
        try:
            models = self._openai.OpenAI(**{**self._settings, "max_retries": 1, "timeout": 10}).models.list().data
        except self._openai.OpenAIError as error:
            raise EngineError(
                f"The endpoint {self.url} does not answer: {_without_stop(error)}.",
                "Check the address (it usually ends in /v1), or name the model with --model.",
            ) from error
        if not models:
            raise EngineError(f"The endpoint {self.url} serves no model.", "Name one with --model.")
        return models[0].id


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _without_stop(error: Exception) -> str:
    return one_line(error, 300).rstrip(".")
