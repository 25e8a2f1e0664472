"""One request from start to end: where it belongs, what the model is asked, what is recorded."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ..store.messages import Message
from .asked import Asked
from .backends import Backend, Given, Known
from .calls import Call
from .history import OpenRollout, Place, answering
from .recorder import Recorder


@dataclass(frozen=True)
class Caller:
    """Under which rollout, and as which of its agents, a request is recorded; no rollout_id is not at all."""

    rollout_id: str | None = None
    agent: str = "main"


@dataclass
class Service:
    """Answers requests with a backend and records them.

    Attributes:
        answered: Model calls answered, recorded or not.
    """

    backend: Backend
    recorder: Recorder
    answered: int = 0

    async def chat(self, asked: Asked, caller: Caller) -> Given:
        """The next message of a conversation. Raises ApiError, RollhouseError and OSError; then nothing is recorded."""
        with self._rollout(caller) as rollout:
            place, known = self._known(asked, caller, rollout)
            started_at, start = datetime.now(UTC), time.perf_counter()
            given = await self.backend.chat_answer(known, asked)
            if rollout is not None:
                call = self._call(rollout, caller, asked, given, place.parent, started_at, time.perf_counter() - start)
                call = replace(call, messages=tuple(known.messages[place.known :]), tools=asked.tools)
                self.recorder.record(rollout, self._with_divergence(rollout, call, place))
        self.answered += 1
        return given

    async def completion(self, asked: Asked, caller: Caller) -> Given:
        """The text after a prompt. In a rollout, a prompt that begins with all tokens of an earlier call continues it."""
        prompt = asked.prompt
        prompt_ids = self.backend.tokenize(prompt) if isinstance(prompt, str) else list(prompt or ())
        with self._rollout(caller) as rollout:
            parent = None if rollout is None else rollout.place_completion(caller.agent, prompt_ids)
            started_at, start = datetime.now(UTC), time.perf_counter()
            given = await self.backend.completion_answer(prompt_ids, asked)
            if rollout is not None:
                call = self._call(rollout, caller, asked, given, parent, started_at, time.perf_counter() - start)
                added = Message("user", self.backend.detokenize(call.added_ids or []))
                self.recorder.record(rollout, replace(call, messages=(added,), completion=True))
        self.answered += 1
        return given

    def _rollout(self, caller: Caller):
        return nullcontext() if caller.rollout_id is None else self.recorder.asking(caller.rollout_id)

    def _known(self, asked: Asked, caller: Caller, rollout: OpenRollout | None) -> tuple[Place, Known]:
        """What the request continues: what was recorded, else what its messages carry."""
        place = Place() if rollout is None else rollout.place(caller.agent, asked.tools, asked.messages)
        if rollout is not None and place.parent is not None:
            parent = rollout.calls[place.parent]
            recorded = [*rollout.history(parent), parent.answer]
            new = answering(asked.messages[place.known :], asked.messages[: place.known], recorded)
            return place, Known([*recorded, *new], place.known, rollout.tokens(parent))
        if asked.prefix is not None:
            carried = Known(asked.messages, asked.prefix.length, asked.prefix.token_ids, trusted=False)
            number = None if rollout is None else rollout.with_tokens(caller.agent, asked.tools, asked.prefix.token_ids)
            return (place if number is None else Place(number, asked.prefix.length)), carried
        return place, Known(asked.messages)

    def _call(
        self,
        rollout: OpenRollout,
        caller: Caller,
        asked: Asked,
        given: Given,
        parent: int | None,
        started_at: datetime,
        seconds: float,
    ) -> Call:
        """The call as what it adds to its parent; messages and tools are the caller's to fill in."""
        before = [] if parent is None else rollout.tokens(rollout.calls[parent])
        added, anew = given.prompt_ids, False
        if added is not None and parent is not None:
            anew = added[: len(before)] != before or not before
            added = added if anew else added[len(before) :]
        return Call(
            number=len(rollout.calls),
            parent=parent,
            agent=caller.agent,
            messages=(),
            tools=(),
            answer=given.message,
            sampling=asked.sampling,
            max_tokens=asked.max_tokens,
            started_at=started_at,
            seconds=seconds,
            added_ids=added,
            token_ids=given.token_ids,
            logprobs=given.logprobs,
            version_spans=given.version_spans,
            stop_reason=given.stop_reason,
            parse_failures=given.parse_failures,
            retries=given.retries,
            anew=anew,
            token_identity=given.token_identity,
            logprobs_mode=given.logprobs_mode,
        )

    def _with_divergence(self, rollout: OpenRollout, call: Call, place: Place) -> Call:
        """Notes where a beginning with turns that were sampled otherwise parts from the nearest recorded conversation."""
        if place.nearest is None:
            return call
        nearest, shared = place.nearest
        tokens = _shared(rollout.tokens(rollout.calls[nearest]), call.added_ids or ())
        return replace(call, diverged={"call": nearest, "message": shared, "token": tokens})


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
