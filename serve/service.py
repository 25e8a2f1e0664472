"""One request from start to end: where it belongs, the model call, and the record of it."""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from ..store.messages import Message
from .answers import Begin, Give, KnownHistory, ModelAnswer, SampledSoFar
from .backends import Backend
from .calls import Call
from .errors import ApiError
from .history import OpenRollout, Place, answering
from .recorder import CallRecorder
from .request import ModelRequest
from .streaming import Sink

T = TypeVar("T")


@dataclass(frozen=True)
class Caller:
    """The rollout and agent that a request is recorded under; without a rollout_id it is not recorded. `model` is an adapter's name, None for the model itself."""

    rollout_id: str | None = None
    agent: str = "main"
    model: str | None = None


@dataclass(frozen=True)
class _Work:
    """A request on its way: what it continues, and how it is answered and recorded.

    Attributes:
        parent: Number of the call that it continues; None begins a conversation.
        ask: The model call, once for each answer.
        cancelled: The answer as far as it was sampled when the client went away; None where that is not known.
        added: The messages that the call adds to its parent's.
        nearest: As in Place.
    """

    parsed: ModelRequest
    caller: Caller
    rollout: OpenRollout | None
    parent: int | None
    ask: Callable[[ModelRequest, SampledSoFar, Begin | None, Give | None], Coroutine[Any, Any, ModelAnswer]]
    cancelled: Callable[[ModelRequest, SampledSoFar], ModelAnswer | None]
    added: Callable[[Call], Sequence[Message]]
    nearest: tuple[int, int] | None = None


@dataclass
class Service:
    """Answers requests with a backend and records them.

    Attributes:
        forced: Gives the request that is answered in place of the one that came: a run forces its own sampling settings and limits. Raises
            ApiError for one that goes beyond a limit. None answers requests as they come.
        lenient: Accept fields that the engine does not have, and name them in the row.
        answered: Number of requests answered, recorded or not.
        cancelled: Number of model calls whose client went away.
        adapters: Backends by the names of the adapters that are served beside the model.
    """

    backend: Backend
    recorder: CallRecorder
    lenient: bool = False
    forced: Callable[[ModelRequest, Caller], ModelRequest] | None = None
    answered: int = 0
    cancelled: int = 0
    adapters: Mapping[str, Backend] = field(default_factory=dict)

    def backend_for(self, caller: Caller) -> Backend:
        """What answers a caller."""
        return self.backend if caller.model is None else self.adapters[caller.model]

    async def chat(self, parsed: ModelRequest, caller: Caller, sink: Sink | None = None) -> list[ModelAnswer]:
        """The next message of a conversation, `parsed.n` times. Raises ApiError, RollhouseError and OSError.

        `sink` gets the pieces of the answers while they are sampled. What was sampled of a cancelled request is recorded.
        """

        def begun(parsed: ModelRequest, rollout: OpenRollout | None) -> _Work:
            if rollout is not None and parsed.read is not None and parsed.read.is_small:
                rollout.read[caller.agent] = parsed.read
            place, known = self._known(parsed, caller, rollout)
            return _Work(
                parsed,
                caller,
                rollout,
                place.parent,
                partial(self.backend_for(caller).chat_answer, known),
                partial(self.backend_for(caller).cancelled_answer, known),
                lambda call: known.messages[place.known :],
                place.nearest,
            )

        return await self._answered(parsed, caller, sink, begun)

    async def completion(self, parsed: ModelRequest, caller: Caller, sink: Sink | None = None) -> list[ModelAnswer]:
        """The text after a prompt. In a rollout, a prompt that begins with all tokens of an earlier call continues that call."""

        def begun(parsed: ModelRequest, rollout: OpenRollout | None) -> _Work:
            prompt = parsed.prompt
            prompt_ids = self.backend.tokenize(prompt) if isinstance(prompt, str) else list(prompt or ())
            return _Work(
                parsed,
                caller,
                rollout,
                None if rollout is None else rollout.place_completion(caller.agent, prompt_ids, caller.model),
                partial(self.backend_for(caller).completion_answer, prompt_ids),
                self.backend_for(caller).cancelled_completion,
                lambda call: [Message("user", self.backend.detokenize(call.added_ids or []))],
            )

        return await self._answered(parsed, caller, sink, begun)

    async def _answered(
        self,
        parsed: ModelRequest,
        caller: Caller,
        sink: Sink | None,
        begun: Callable[[ModelRequest, OpenRollout | None], _Work],
    ) -> list[ModelAnswer]:
        parsed = parsed if self.forced is None else self.forced(parsed, caller)
        parsed = self.backend_for(caller).accepted(parsed, self.lenient)
        with self._rollout(caller) as rollout:
            work = begun(parsed, rollout)
            answers = await all_of([self._once(work, one, sink, i) for i, one in enumerate(_each(parsed))])
        self.answered += 1
        return answers

    async def _once(self, work: _Work, parsed: ModelRequest, sink: Sink | None, choice: int) -> ModelAnswer:
        """One of the answers. Records it, or what was sampled of it when the client goes away."""
        started_at, start = datetime.now(UTC), time.perf_counter()
        so_far = SampledSoFar()

        def record(answer: ModelAnswer) -> None:
            if work.rollout is not None:
                call = self._call(work, parsed, answer, started_at, time.perf_counter() - start)
                self.recorder.record(work.rollout, call)

        begin, give = (None, None) if sink is None else (sink.begin, partial(sink.feed, choice))
        try:
            answer = await work.ask(parsed, so_far, begin, give)
        except asyncio.CancelledError:
            self._record_cancelled(record, work.cancelled(parsed, so_far))
            raise
        record(answer)
        return answer

    def _record_cancelled(self, record: Callable[[ModelAnswer], None], answer: ModelAnswer | None) -> None:
        """Records what was sampled before a client went away; the client gets no error, so none is raised."""
        self.cancelled += 1
        if answer is not None:
            try:
                record(answer)
            except (ApiError, OSError) as error:
                print(f"warning: a cancelled call was not recorded: {error}", file=sys.stderr, flush=True)

    def count(self, parsed: ModelRequest) -> int:
        """The number of tokens of a conversation's next prompt."""
        parsed = self.backend.accepted(parsed, True)
        return len(self.backend.prompt_ids(KnownHistory(parsed.messages), parsed.tools, True))

    def _rollout(self, caller: Caller):
        return nullcontext() if caller.rollout_id is None else self.recorder.calling(caller.rollout_id)

    def _known(self, parsed: ModelRequest, caller: Caller, rollout: OpenRollout | None) -> tuple[Place, KnownHistory]:
        """What the request continues: a recorded call, else the tokens that its messages carry."""
        place = Place()
        if rollout is not None:
            place = rollout.place(caller.agent, parsed.tools, parsed.messages, caller.model)
        if rollout is not None and place.parent is not None:
            parent = rollout.calls[place.parent]
            recorded = rollout.conversation(parent)
            new = answering(parsed.messages[place.known :], parsed.messages[: place.known], recorded)
            return place, KnownHistory([*recorded, *new], place.known, rollout.tokens(parent))
        if parsed.prefix is not None:
            carried = KnownHistory(parsed.messages, parsed.prefix.length, parsed.prefix.token_ids, trusted=False)
            number = None
            if rollout is not None:
                number = rollout.with_tokens(caller.agent, parsed.tools, parsed.prefix.token_ids, caller.model)
            return (place if number is None else Place(number, parsed.prefix.length)), carried
        return place, KnownHistory(parsed.messages)

    def _call(
        self, work: _Work, parsed: ModelRequest, answer: ModelAnswer, started_at: datetime, seconds: float
    ) -> Call:
        """The call as a difference to its parent."""
        rollout = work.rollout
        assert rollout is not None
        before = [] if work.parent is None else rollout.tokens(rollout.calls[work.parent])
        added, anew = answer.prompt_ids, False
        if added is not None and work.parent is not None:
            anew = added[: len(before)] != before or not before
            added = added if anew else added[len(before) :]
        call = Call(
            number=len(rollout.calls),
            parent=work.parent,
            agent=work.caller.agent,
            messages=(),
            tools=parsed.tools,
            answer=answer.message,
            sampling=parsed.sampling,
            max_tokens=parsed.max_tokens,
            started_at=started_at,
            seconds=seconds,
            added_ids=added,
            token_ids=answer.token_ids,
            logprobs=answer.logprobs,
            version_spans=answer.version_spans,
            stop_reason=answer.stop_reason,
            parse_failures=answer.parse_failures,
            retries=answer.retries,
            anew=anew,
            token_identity=answer.token_identity,
            logprobs_mode=answer.logprobs_mode,
            diverged=_divergence(rollout, work.nearest, added or ()),
            completion=parsed.prompt is not None,
            gaps=(*parsed.gaps, *(["stream_differs"] if answer.stream_differs else [])),
            model=work.caller.model,
        )
        return replace(call, messages=tuple(work.added(call)))


def _divergence(rollout: OpenRollout, nearest: tuple[int, int] | None, prompt: Sequence[int]) -> dict[str, int] | None:
    """Where a beginning with turns that are not those sampled differs from the nearest recorded conversation."""
    if nearest is None:
        return None
    number, shared = nearest
    tokens = rollout.tokens(rollout.calls[number])
    return {"call": number, "message": shared, "token": _shared(tokens, prompt)}


def _each(parsed: ModelRequest) -> list[ModelRequest]:
    """A request for each of several answers, with seeds of their own."""
    seed = parsed.sampling.seed
    if parsed.n == 1 or seed is None:
        return [parsed] * parsed.n
    return [replace(parsed, sampling=replace(parsed.sampling, seed=(seed + i) % 2**63)) for i in range(parsed.n)]


async def all_of(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The values of all; when one fails, the others are cancelled and its error is raised."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common beginning of two sequences."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
