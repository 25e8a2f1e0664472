"""One request from start to end: where it belongs, the model call, and the record of it."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..store.messages import Message
from .backends import Backend, KnownHistory, ModelAnswer
from .calls import Call
from .history import OpenRollout, Place, answering
from .recorder import CallRecorder
from .request import ModelRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Caller:
    """The rollout and agent that a request is recorded under; without a rollout_id it is not recorded."""

    rollout_id: str | None = None
    agent: str = "main"


@dataclass
class Service:
    """Answers requests with a backend and records them.

    Attributes:
        forced: Gives the request that is answered in place of the one that came: a run forces its own sampling settings and limits. Raises
            ApiError for one that goes beyond a limit. None answers requests as they come.
        lenient: Accept fields that the engine does not have, and name them in the row.
        answered: Number of model calls, recorded or not.
    """

    backend: Backend
    recorder: CallRecorder
    lenient: bool = False
    forced: Callable[[ModelRequest, Caller], ModelRequest] | None = None
    answered: int = 0

    async def chat(self, parsed: ModelRequest, caller: Caller) -> list[ModelAnswer]:
        """The next message of a conversation, `parsed.n` times. Raises ApiError, RollhouseError and OSError."""
        parsed = self.backend.accepted(parsed if self.forced is None else self.forced(parsed, caller), self.lenient)
        with self._rollout(caller) as rollout:
            place, known = self._known(parsed, caller, rollout)
            answers = await all_of([self._chat_once(one, caller, rollout, place, known) for one in _each(parsed)])
        self.answered += 1
        return answers

    async def _chat_once(
        self, parsed: ModelRequest, caller: Caller, rollout: OpenRollout | None, place: Place, known: KnownHistory
    ) -> ModelAnswer:
        started_at, start = datetime.now(UTC), time.perf_counter()
        answer = await self.backend.chat_answer(known, parsed)
        if rollout is not None:
            call = self._call(rollout, caller, parsed, answer, place.parent, started_at, time.perf_counter() - start)
            call = replace(call, messages=tuple(known.messages[place.known :]), tools=parsed.tools)
            self.recorder.record(rollout, self._with_divergence(rollout, call, place))
        return answer

    async def completion(self, parsed: ModelRequest, caller: Caller) -> list[ModelAnswer]:
        """The text after a prompt. In a rollout, a prompt that begins with all tokens of an earlier call continues that call."""
        parsed = self.backend.accepted(parsed if self.forced is None else self.forced(parsed, caller), self.lenient)
        prompt = parsed.prompt
        prompt_ids = self.backend.tokenize(prompt) if isinstance(prompt, str) else list(prompt or ())
        with self._rollout(caller) as rollout:
            parent = None if rollout is None else rollout.place_completion(caller.agent, prompt_ids)
            answers = await all_of([self._complete_once(one, caller, rollout, parent, prompt_ids) for one in _each(parsed)])  # fmt: skip
        self.answered += 1
        return answers

    async def _complete_once(
        self, parsed: ModelRequest, caller: Caller, rollout: OpenRollout | None, parent: int | None, prompt_ids: list[int]
    ) -> ModelAnswer:  # fmt: skip
        started_at, start = datetime.now(UTC), time.perf_counter()
        answer = await self.backend.completion_answer(prompt_ids, parsed)
        if rollout is not None:
            call = self._call(rollout, caller, parsed, answer, parent, started_at, time.perf_counter() - start)
            added = Message("user", self.backend.detokenize(call.added_ids or []))
            self.recorder.record(rollout, replace(call, messages=(added,), completion=True))
        return answer

    def _rollout(self, caller: Caller):
        return nullcontext() if caller.rollout_id is None else self.recorder.calling(caller.rollout_id)

    def _known(self, parsed: ModelRequest, caller: Caller, rollout: OpenRollout | None) -> tuple[Place, KnownHistory]:
        """What the request continues: a recorded call, else the tokens that its messages carry."""
        place = Place() if rollout is None else rollout.place(caller.agent, parsed.tools, parsed.messages)
        if rollout is not None and place.parent is not None:
            parent = rollout.calls[place.parent]
            recorded = [*rollout.history(parent), parent.answer]
            new = answering(parsed.messages[place.known :], parsed.messages[: place.known], recorded)
            return place, KnownHistory([*recorded, *new], place.known, rollout.tokens(parent))
        if parsed.prefix is not None:
            carried = KnownHistory(parsed.messages, parsed.prefix.length, parsed.prefix.token_ids, trusted=False)
            number = (
                None if rollout is None else rollout.with_tokens(caller.agent, parsed.tools, parsed.prefix.token_ids)
            )
            return (place if number is None else Place(number, parsed.prefix.length)), carried
        return place, KnownHistory(parsed.messages)

    def _call(
        self,
        rollout: OpenRollout,
        caller: Caller,
        parsed: ModelRequest,
        answer: ModelAnswer,
        parent: int | None,
        started_at: datetime,
        seconds: float,
    ) -> Call:
        """The call as a difference to its parent; the caller fills in messages and tools."""
        before = [] if parent is None else rollout.tokens(rollout.calls[parent])
        added, anew = answer.prompt_ids, False
        if added is not None and parent is not None:
            anew = added[: len(before)] != before or not before
            added = added if anew else added[len(before) :]
        return Call(
            number=len(rollout.calls),
            parent=parent,
            agent=caller.agent,
            messages=(),
            tools=(),
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
            gaps=parsed.gaps,
        )

    def _with_divergence(self, rollout: OpenRollout, call: Call, place: Place) -> Call:
        """Notes where a beginning with turns that are not those sampled differs from the nearest recorded conversation."""
        if place.nearest is None:
            return call
        nearest, shared = place.nearest
        tokens = _shared(rollout.tokens(rollout.calls[nearest]), call.added_ids or ())
        return replace(call, diverged={"call": nearest, "message": shared, "token": tokens})


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
