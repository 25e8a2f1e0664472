"""What answers a request: a token engine, whose prompts are built here token by token, or another endpoint."""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..policies.chat import TemplateError
from ..policies.engines.base import EngineRefused, PromptTooLong, SampledTokens
from ..policies.parsers import opens_thinking, split_thinking
from ..policies.token_policy import TokenPolicy
from ..policies.types import Conversation, Policy
from ..store.messages import Message, VersionSpan
from ..store.task import Task
from .bounds import beside
from .errors import refused
from .request import ModelRequest

_THINKING_TAIL = 16  # tokens that hold `<think>` and white space, even one token a byte


@dataclass(frozen=True)
class ModelAnswer:
    """The input and output of one model call.

    Attributes:
        message: The sampled message; for a completion only its `text` is used.
        prompt_ids: Tokens of the prompt; None when the endpoint does not return them.
        token_ids: The sampled tokens; None when the endpoint does not return them.
        logprobs: Parallel to token_ids.
    """

    message: Message
    prompt_ids: list[int] | None
    token_ids: list[int] | None
    logprobs: list[float] | None
    version_spans: tuple[VersionSpan, ...]
    stop_reason: str
    parse_failures: int = 0
    retries: int = 0
    token_identity: tuple[str | None, str | None] | None = None
    logprobs_mode: str | None = "processed"


@dataclass(frozen=True)
class KnownHistory:
    """The conversation of a request, and the tokens that stand for its beginning.

    Attributes:
        messages: All of them, the recorded ones as they were recorded.
        length: Number of messages that `token_ids` stand for.
        token_ids: Prompt and sampled tokens of these messages; empty when they are not known.
        trusted: Whether the tokens were recorded here, not sent by the client.
    """

    messages: Sequence[Message]
    length: int = 0
    token_ids: Sequence[int] = ()
    trusted: bool = True


class TokenBackend:
    """A token engine of this process."""

    def __init__(self, policy: TokenPolicy) -> None:
        self.policy: Policy = policy
        self.engine, self.chat = policy.token_engine, policy.chat
        self.max_model_len: int | None = policy.token_engine.max_model_len
        vocabulary = policy.chat.tokenizer.get_vocab()
        self.n_tokens = len(policy.chat.tokenizer)
        self.longest_token = max(map(len, vocabulary))

    async def chat_answer(self, known: KnownHistory, parsed: ModelRequest) -> ModelAnswer:
        """The next message. Raises PromptTooLong, TemplateError, EngineError."""
        size = _characters(known.messages, parsed.tools) + 64 * len(known.messages)
        prompt_ids = await beside(size, self.prompt_ids, known, parsed.tools)
        generation = await self._generate(prompt_ids, parsed)
        calls = sum(len(message.tool_calls) for message in known.messages)
        generation, cut = self._cut_at_stop(generation, parsed.stop)
        if parsed.read_calls:
            message, failures = self.chat.parse(generation.token_ids, calls, parsed.tools, prompt_ids)
        else:
            message, failures = self._plain(generation.token_ids, prompt_ids), 0
        if cut is not None and message.text:
            message = replace(message, text=message.text.split(cut, 1)[0])
        return _answer(message, prompt_ids, generation, failures)

    async def completion_answer(self, prompt_ids: list[int], parsed: ModelRequest) -> ModelAnswer:
        """The text that follows a prompt of tokens. Raises ApiError for ids outside the vocabulary."""
        self._refuse_unknown(prompt_ids)
        generation = await self._generate(prompt_ids, parsed)
        generation, cut = self._cut_at_stop(generation, parsed.stop)
        text = self._text(generation.token_ids)
        text = text if cut is None else text.split(cut, 1)[0]
        return _answer(Message("assistant", text), prompt_ids, generation)

    def prompt_ids(
        self, known: KnownHistory, tools: Sequence[Mapping[str, Any]], generation_prompt: bool = True
    ) -> list[int]:
        """The prompt: the known tokens of the conversation's beginning, then the rest as the template renders it after them.

        Everything is rendered again when that is impossible: the template loses a turn, or the client's tokens are of another conversation.
        """
        self._refuse_what_cannot_fit(_characters(known.messages, tools))
        if known.token_ids and generation_prompt:
            before = known.messages[: known.length]
            if not known.trusted:
                self._refuse_unknown(known.token_ids)
            if known.trusted or self._has_turns_of(known.token_ids, before, tools):
                try:
                    return self.chat.splice(list(known.token_ids), before, known.messages, tools)
                except TemplateError:
                    pass
        return self.chat.render(known.messages, tools, generation_prompt=generation_prompt)

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text."""
        self._refuse_what_cannot_fit(len(text))
        return list(self.chat.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def detokenize(self, token_ids: list[int]) -> str:
        """The text of tokens, special ones included. Raises ApiError for ids outside the vocabulary."""
        self._refuse_unknown(token_ids)
        return self._decode(token_ids)

    def _refuse_unknown(self, token_ids: Sequence[int]) -> None:
        if any(token >= self.n_tokens for token in token_ids):  # some engines would end on them
            raise refused(f"Token ids must be below {self.n_tokens}.")

    def _refuse_what_cannot_fit(self, characters: int) -> None:
        """Refuses text that cannot fit before it is tokenised: megabytes of it would block all other requests."""
        most = self.longest_token * self.engine.max_model_len
        if characters > most:
            raise PromptTooLong(
                f"The text has {characters} characters, and the context of {self.engine.max_model_len} tokens holds at most {most}.",
                "Send a shorter text.",
            )

    async def _generate(self, prompt_ids: list[int], parsed: ModelRequest) -> SampledTokens:
        room = self.engine.max_model_len - len(prompt_ids)
        if room < 1:
            raise PromptTooLong(
                f"The prompt has {len(prompt_ids)} tokens, and the context length is {self.engine.max_model_len}.",
                "Send a shorter conversation, or serve with a larger --max-model-len.",
            )
        limit = room if parsed.max_tokens is None else min(parsed.max_tokens, room)
        return await self.engine.generate(prompt_ids, replace(parsed.sampling, max_tokens=limit))

    def _cut_at_stop(self, generation: SampledTokens, stops: Sequence[str]) -> tuple[SampledTokens, str | None]:
        """The generation up to the token that completes the first stop text, and that text; None when none occurs.

        Engines stop at tokens, so what they sampled after the text is dropped.
        """
        ids = generation.token_ids
        whole = self._decode(ids) if stops else ""
        found = [(whole.index(stop), stop) for stop in stops if stop in whole]
        if not found:
            return generation, None
        stop = min(found)[1]
        count = bisect_left(range(1, len(ids) + 1), True, key=lambda length: stop in self._decode(ids[:length])) + 1
        spans = tuple(span for span in generation.version_spans if span.start < count)
        return SampledTokens(ids[:count], generation.logprobs[:count], spans, "stop"), stop

    def _has_turns_of(
        self, token_ids: Sequence[int], before: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Whether tokens have as many ends of turn as the messages they are texts to stand for; the last may be missing."""
        end = self.chat.stop_token_ids[0]
        expected = self.chat.render(before, tools, generation_prompt=False).count(end)
        return expected - list(token_ids).count(end) in ((0,) if token_ids[-1] == end else (0, 1))

    def _plain(self, token_ids: list[int], before: list[int]) -> Message:
        """A turn whose calls are not to be read: they stay in the text, which is all the client parsed for."""
        reasoning, text = split_thinking(self._text(token_ids), opens_thinking(self._decode(before[-_THINKING_TAIL:])))
        return Message("assistant", text, reasoning=reasoning)

    def _text(self, token_ids: list[int]) -> str:
        ended = token_ids and token_ids[-1] in self.chat.stop_token_ids
        return self._decode(token_ids[:-1] if ended else token_ids)

    def _decode(self, token_ids: list[int]) -> str:
        return str(self.chat.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


class EndpointBackend:
    """Another OpenAI-compatible endpoint. Tokens that it returns are passed on and recorded."""

    max_model_len: int | None = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def chat_answer(self, known: KnownHistory, parsed: ModelRequest) -> ModelAnswer:
        """The next message. Raises EngineRefused, PromptTooLong, EngineError, and ApiError for what cannot be passed on."""
        if parsed.stop:
            raise refused("`stop` is not supported with an endpoint behind the server.", "unsupported")
        if parsed.tools and not parsed.read_calls:
            raise refused("`tool_choice` none is not supported with an endpoint behind the server.", "unsupported")
        if parsed.max_tokens is None:
            raise refused("`max_tokens` is required with an endpoint behind the server.", "unsupported")
        talk = Conversation(Task("served", tuple(known.messages), parsed.tools))
        turn = await self.policy.respond(talk, replace(parsed.sampling, max_tokens=parsed.max_tokens))
        if turn.token_ids == []:
            raise PromptTooLong("The endpoint's context is full.", "Send a shorter conversation.")
        shown = talk.prompt_ids is not None and turn.token_ids is not None
        return ModelAnswer(
            turn.message,
            talk.prompt_ids if shown else None,
            turn.token_ids if shown else None,
            turn.logprobs if shown else None,
            turn.version_spans,
            turn.stop_reason,
            turn.parse_failures,
            turn.retries,
            talk.token_identity,
            talk.logprobs_mode,
        )

    async def completion_answer(self, prompt_ids: list[int], parsed: ModelRequest) -> ModelAnswer:
        """Not available; raises EngineRefused."""
        raise _not_here("/v1/completions")

    def prompt_ids(
        self, known: KnownHistory, tools: Sequence[Mapping[str, Any]], generation_prompt: bool = True
    ) -> list[int]:
        """Not available; raises EngineRefused."""
        raise _not_here("/tokenize")

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Not available; raises EngineRefused."""
        raise _not_here("tokenising")

    def detokenize(self, token_ids: list[int]) -> str:
        """Not available; raises EngineRefused."""
        raise _not_here("/detokenize")


Backend = TokenBackend | EndpointBackend


def backend_of(policy: Policy) -> Backend:
    """The backend over a policy."""
    return TokenBackend(policy) if isinstance(policy, TokenPolicy) else EndpointBackend(policy)


def _answer(message: Message, prompt_ids: list[int], generation: SampledTokens, failures: int = 0) -> ModelAnswer:
    spans = generation.version_spans
    return ModelAnswer(
        message, prompt_ids, generation.token_ids, generation.logprobs, spans, generation.stop_reason, failures
    )


def _characters(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> int:
    """Characters that every template renders; thinking is not counted, since some templates leave it out."""
    texts = [text for message in messages for text in (message.text or "", *(call.arguments for call in message.tool_calls))]  # fmt: skip
    return sum(map(len, texts)) + sum(len(json.dumps(tool, ensure_ascii=False)) for tool in tools)


def _not_here(what: str) -> Exception:
    return EngineRefused(f"{what} is not available with an endpoint behind the server.", "Use the endpoint itself.")
