"""What answers a request: a token engine, whose prompts are built here token by token, or another endpoint (`endpoint_backend`)."""

import asyncio
import json
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ..policies.chat import ChatFormat, TemplateError
from ..policies.engines.base import PromptTooLong, SampledTokens
from ..policies.forms import behind_thinking, forced_call
from ..policies.parsers import opens_thinking, split_thinking
from ..policies.token_policy import TokenPolicy
from ..policies.turn_stream import TurnStream
from ..policies.types import Policy
from ..store.messages import Message
from .answers import Begin, Give, KnownHistory, ModelAnswer, SampledSoFar
from .bounds import beside
from .endpoint_backend import EndpointBackend
from .errors import refused
from .request import ModelRequest
from .settled import distribution_gaps, field_of, without_shaping

_THINKING_TAIL = 16  # tokens that hold `<think>` and white space, even one token a byte
_KEPT_TEMPLATES = 16


class TokenBackend:
    """A token engine of this process."""

    def __init__(self, policy: TokenPolicy) -> None:
        self.policy: Policy = policy
        self.engine, self.chat = policy.token_engine, policy.chat
        self._chats = lru_cache(_KEPT_TEMPLATES)(self._chat_with)
        self.max_model_len: int | None = policy.token_engine.max_model_len
        vocabulary = policy.chat.tokenizer.get_vocab()
        self.n_tokens = len(policy.chat.tokenizer)
        self.longest_token = max(map(len, vocabulary))

    def accepted(self, parsed: ModelRequest, lenient: bool) -> ModelRequest:
        """The request as it is answered, with the gaps that name what is not honoured.

        Raises ApiError for fields that this engine does not have, unless `lenient`.
        """
        if any(message.parts is not None for message in parsed.messages):
            raise refused("The content of messages must be text: images and other parts are not supported.", "unsupported")  # fmt: skip
        self._refuse_unknown([token for token, _ in parsed.sampling.shaping.logit_bias])
        lacking = [*parsed.refused, *self._lacking(parsed)]
        if lacking and not lenient:
            raise refused(
                f"`{lacking[0]}` is not supported by the engine {self.engine.kind}: leave it out, or start the server with --lenient, which ignores it and names it in the row.",
                "unsupported",
            )
        kept = without_shaping(parsed, lacking)
        ignored = [f"ignored:{name}" for name in (*parsed.noted, *lacking)]
        return replace(kept, gaps=(*kept.gaps, *ignored, *distribution_gaps(kept)))

    def _lacking(self, parsed: ModelRequest) -> list[str]:
        has: Collection[str] = getattr(self.engine, "shapes", ())
        lacking = [name for name in parsed.sampling.shaping.names() if name not in has]
        lacking = [field_of(name, parsed) for name in lacking]
        if parsed.choice.mode == "required" and ("constraint" not in has or self.chat.call_shape is None):
            lacking.append("tool_choice")
        if parsed.sampling.top_logprobs and "top_logprobs" not in has:
            lacking.append("top_logprobs")
        return lacking

    async def chat_answer(
        self,
        known: KnownHistory,
        parsed: ModelRequest,
        so_far: SampledSoFar,
        begin: Begin | None = None,
        give: Give | None = None,
    ) -> ModelAnswer:
        """The next message. Raises PromptTooLong, TemplateError, EngineError.

        Args:
            so_far: Filled while tokens are sampled, if the engine reports them.
            begin: Awaited when the request goes to the engine.
            give: Gets the pieces of the answer.
        """
        chat = self.chat_of(parsed)
        size = _to_render(known, parsed.tools)
        so_far.prompt_ids = prompt_ids = await beside(size, self.prompt_ids, known, parsed.tools, True, chat)
        self._refuse_full(prompt_ids)
        opened = opens_thinking(self._decode(prompt_ids[-_THINKING_TAIL:]))
        parsed = self._with_form(chat, parsed, opened)
        if begin is not None:
            await begin()
        stream = None
        if give is not None:
            stream = TurnStream(chat, opened, parsed.read_calls, parsed.stop, _n_calls(known.messages))
        generation = await self._generate(prompt_ids, parsed, so_far, stream, give)
        return self._message(chat, generation, known, parsed, prompt_ids, stream)

    def _with_form(self, chat: ChatFormat, parsed: ModelRequest, opened: bool) -> ModelRequest:
        """The request with the form that its answer must have, calls that must be made and thinking that the prompt opened included."""
        shaping = parsed.sampling.shaping
        form = shaping.constraint
        if parsed.choice.mode == "required":
            if form is not None:
                raise refused("`tool_choice` requires a call, and another field gives the form of the answer: leave one out.")  # fmt: skip
            form = forced_call(chat, parsed.tools, parsed.choice.name)
        if form is None:
            return parsed
        form = behind_thinking(form) if opened else form
        return replace(parsed, sampling=replace(parsed.sampling, shaping=replace(shaping, constraint=form)))

    def cancelled_answer(self, known: KnownHistory, parsed: ModelRequest, so_far: SampledSoFar) -> ModelAnswer | None:
        """The answer as far as it was sampled when its request was cancelled; None where that is not known."""
        if not so_far.token_ids or so_far.prompt_ids is None:
            return None
        generation = so_far.as_sampled("cancelled")
        return self._message(self.chat_of(parsed), generation, known, parsed, so_far.prompt_ids, None)

    def _message(
        self,
        chat: ChatFormat,
        generation: SampledTokens,
        known: KnownHistory,
        parsed: ModelRequest,
        prompt_ids: list[int],
        stream: TurnStream | None,
    ) -> ModelAnswer:
        generation, cut = self._cut_at_stop(generation, parsed.stop)
        if parsed.read_calls:
            message, failures = chat.parse(generation.token_ids, _n_calls(known.messages), parsed.tools, prompt_ids)
        else:
            message, failures = self._plain(generation.token_ids, prompt_ids), 0
        if cut is not None and message.text:
            message = replace(message, text=message.text.split(cut, 1)[0])
        answer = replace(_answer(message, prompt_ids, generation, failures), stop_text=cut)
        if stream is not None:
            answer = replace(answer, stream_differs=not stream.given.begins(message))
        return answer if chat is self.chat else replace(answer, token_identity=(chat.tokenizer_hash, chat.template_hash))  # fmt: skip

    def chat_of(self, parsed: ModelRequest) -> ChatFormat:
        """The chat format with the request's settings of the template. Raises ConfigError for a setting that the template cannot have."""
        return self._chats(json.dumps(parsed.template, sort_keys=True)) if parsed.template else self.chat

    def _chat_with(self, settings: str) -> ChatFormat:
        return self.chat.with_settings(json.loads(settings))

    async def completion_answer(
        self,
        prompt_ids: list[int],
        parsed: ModelRequest,
        so_far: SampledSoFar,
        begin: Begin | None = None,
        give: Give | None = None,
    ) -> ModelAnswer:
        """The text that follows a prompt of tokens; arguments as for `chat_answer`. Raises ApiError for ids outside the vocabulary."""
        self._refuse_unknown(prompt_ids)
        self._refuse_full(prompt_ids)
        so_far.prompt_ids = prompt_ids
        if begin is not None:
            await begin()
        stream = None if give is None else TurnStream(self.chat, False, False, parsed.stop, plain=True)
        return self._completed(prompt_ids, parsed, await self._generate(prompt_ids, parsed, so_far, stream, give))

    def cancelled_completion(self, parsed: ModelRequest, so_far: SampledSoFar) -> ModelAnswer | None:
        """As `cancelled_answer`."""
        if not so_far.token_ids or so_far.prompt_ids is None:
            return None
        return self._completed(so_far.prompt_ids, parsed, so_far.as_sampled("cancelled"))

    def _completed(self, prompt_ids: list[int], parsed: ModelRequest, generation: SampledTokens) -> ModelAnswer:
        generation, cut = self._cut_at_stop(generation, parsed.stop)
        text = self._text(generation.token_ids)
        text = text if cut is None else text.split(cut, 1)[0]
        return replace(_answer(Message("assistant", text), prompt_ids, generation), stop_text=cut)

    def prompt_ids(
        self,
        known: KnownHistory,
        tools: Sequence[Mapping[str, Any]],
        generation_prompt: bool = True,
        chat: ChatFormat | None = None,
    ) -> list[int]:
        """The prompt: the known tokens of the conversation's beginning, then the rest as the template renders it after them.

        Everything is rendered again when that is impossible: the template loses a turn, or the client's tokens are of another conversation.
        """
        chat = chat or self.chat
        self._refuse_what_cannot_fit(_to_render(known, tools))
        if known.token_ids and generation_prompt:
            before = known.messages[: known.length]
            if not known.trusted:
                self._refuse_unknown(known.token_ids)
            if known.trusted or self._has_turns_of(known.token_ids, before, tools):
                try:
                    return chat.splice(list(known.token_ids), before, known.messages, tools)
                except TemplateError:
                    self._refuse_what_cannot_fit(_to_render(KnownHistory(known.messages), tools))
        return chat.render(known.messages, tools, generation_prompt=generation_prompt)

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

    def _refuse_full(self, prompt_ids: list[int]) -> None:
        if len(prompt_ids) >= self.engine.max_model_len:
            raise PromptTooLong(
                f"The prompt has {len(prompt_ids)} tokens, and the context length is {self.engine.max_model_len}.",
                "Send a shorter conversation, or serve with a larger --max-model-len.",
            )

    async def _generate(
        self,
        prompt_ids: list[int],
        parsed: ModelRequest,
        so_far: SampledSoFar,
        stream: TurnStream | None,
        give: Give | None,
    ) -> SampledTokens:
        room = self.engine.max_model_len - len(prompt_ids)
        limit = room if parsed.max_tokens is None else min(parsed.max_tokens, room)
        sampling = replace(parsed.sampling, max_tokens=limit)
        if not getattr(self.engine, "streams", False):
            return await self.engine.generate(prompt_ids, sampling)
        engine: Any = self.engine
        if stream is None or give is None:  # what is sampled is kept for a client that goes away
            return await engine.generate(prompt_ids, sampling, so_far.add)
        work: asyncio.Task[SampledTokens]

        def on_tokens(token_ids: list[int], logprobs: list[float], version: int) -> None:
            if not stream.stopped:
                so_far.add(token_ids, logprobs, version)
                give(stream.feed(token_ids))
                if stream.stopped:
                    work.cancel()  # the engine stops at tokens, not at texts

        work = asyncio.ensure_future(engine.generate(prompt_ids, sampling, on_tokens))
        try:
            return await work
        except asyncio.CancelledError:
            if stream.stopped and not _is_cancelled():
                return so_far.as_sampled("stop")
            work.cancel()
            raise

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


Backend = TokenBackend | EndpointBackend


def backend_of(policy: Policy) -> Backend:
    """The backend over a policy."""
    return TokenBackend(policy) if isinstance(policy, TokenPolicy) else EndpointBackend(policy)


def _is_cancelled() -> bool:
    """Whether the request itself was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _answer(message: Message, prompt_ids: list[int], generation: SampledTokens, failures: int = 0) -> ModelAnswer:
    spans = generation.version_spans
    return ModelAnswer(
        message, prompt_ids, generation.token_ids, generation.logprobs, spans, generation.stop_reason, failures, top=generation.top
    )  # fmt: skip


def _n_calls(messages: Sequence[Message]) -> int:
    return sum([len(message.tool_calls) for message in messages])


def _to_render(known: KnownHistory, tools: Sequence[Mapping[str, Any]]) -> int:
    """Characters that every template renders where no tokens of ours stand for them; thinking is not counted, since some templates leave it out."""
    spared = known.length if known.trusted and known.token_ids else 0
    count = 0
    for message in known.messages[spared:]:
        count += len(message.text or "") + sum(len(call.arguments) for call in message.tool_calls)
    return count if spared else count + sum(len(json.dumps(tool, ensure_ascii=False)) for tool in tools)
