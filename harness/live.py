"""Rollouts that harnesses play just now: their calls in memory, and what the run forces on them."""

import asyncio
import contextlib
import inspect
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..collect.episode import Slot
from ..environments.harness import HarnessSettings
from ..environments.types import Done, Environment
from ..policies.types import Sampling, Shaping, Turn
from ..serve.calls import Call
from ..serve.errors import ApiError, conflict, refused
from ..serve.history import OpenRollout
from ..serve.request import ModelRequest
from ..serve.rows import last_call
from ..serve.service import Caller
from ..serve.verdicts import Ending
from ..store.ids import hash_id
from ..store.messages import Message, ToolCall
from ..store.task import Score

_MOST_ASKED = 20


@dataclass
class LiveRollout:
    """One rollout while its harness plays it. All methods belong to the gateway's event loop.

    Attributes:
        sampling: What each call is sampled with; its seed is the rollout's.
        served: Its calls.
        key: What its clients send as API key.
        asked: The distinct sampling settings that the agent asked for, at most 20.
        n_calls: Calls begun.
        limit: The first limit that a call went beyond: `max_calls`, `token_budget` or `length` (the context); None for none.
        failure: The first error of the engine that a call was answered with; None for none.
        ending: The body of the harness's `/finish`; None without one.
        n_tool_calls: Calls of the environment's tools through the gateway.
    """

    slot: Slot
    sampling: Sampling
    settings: HarnessSettings
    environment: Environment
    tool_limit_s: float | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    asked: list[dict[str, Any]] = field(default_factory=list)
    n_calls: int = 0
    limit: str | None = None
    failure: str | None = None
    ending: Ending | None = None
    n_tool_calls: int = 0
    _session: Any = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.served = OpenRollout(self.slot.rollout_id)
        self.places = asyncio.Semaphore(self.settings.calls_at_once)

    @property
    def name(self) -> str:
        """The rollout's id, in its address too."""
        return self.served.name

    @property
    def n_sampled(self) -> int:
        """Tokens sampled so far."""
        return sum(len(call.token_ids or ()) for call in self.served.calls)

    def forced(self, parsed: ModelRequest, agent: str) -> ModelRequest:
        """The request with the run's settings. Raises ApiError beyond a limit."""
        if self.ending is not None:
            raise conflict("The rollout has ended: the harness has posted its verdict.", "rollout_finished")
        self._note(parsed)
        budget, limit = self.settings.token_budget, self.sampling.max_tokens
        if self.n_calls >= self.settings.max_calls:
            raise self._beyond("max_calls", f"The rollout has made {self.n_calls} model calls, its limit.")
        if budget is not None and (left := budget - self.n_sampled) < limit:
            limit = left
            if left < 1:
                raise self._beyond("token_budget", f"The rollout has sampled {budget} tokens, its limit.")
        self.n_calls += parsed.n
        # The form of an answer (JSON, a schema) is the agent's: without it the agent would fail. Such rows have a gap and are not trained on.
        form = Shaping(constraint=parsed.sampling.shaping.constraint)
        seed, top = self._seed(parsed, agent), parsed.sampling.top_logprobs
        sampling = replace(self.sampling, seed=seed, shaping=form, top_logprobs=top)
        return replace(parsed, sampling=sampling, max_tokens=limit)

    async def call_tool(self, name: str, arguments: str) -> str:
        """The result of a tool of the environment's session, which begins with the first call."""
        async with self._lock:
            session = await self._begun()
            self.n_tool_calls += 1
            call = ToolCall(f"call_{self.n_tool_calls}", name, arguments)
            answer = await session.step(Turn(Message("assistant", None, (call,))))
            messages = answer.messages if isinstance(answer, Done) else answer
            return "\n".join(message.text or "" for message in messages)

    async def verdict(self) -> Score:
        """The environment's verdict: on its session where its tools were used, else on the recorded calls of the main path in a fresh one."""
        async with self._lock:
            session = await self._begun()
            path = self.served.path(last_call(self.served.branches())) if self.served.calls else []
            turns = [call for call in path if not self.n_tool_calls or (call is path[-1] and not call.answer.tool_calls)]  # fmt: skip
            for call in turns:
                await session.step(Turn(call.answer, stop_reason=call.stop_reason if call is path[-1] else "stop"))
            return await _value(session.verify())

    async def close(self) -> None:
        """Ends the session."""
        session, self._session = self._session, None
        if session is not None:
            await _value(session.close())

    async def _begun(self) -> Any:
        if self._session is None:
            self._session = await _value(self.environment.start(self.slot.task))
            if hasattr(self._session, "tool_limit_s"):
                self._session.tool_limit_s = self.tool_limit_s
        return self._session

    def _beyond(self, limit: str, message: str) -> ApiError:
        self.limit = self.limit or limit
        return refused(message, limit)

    def _note(self, parsed: ModelRequest) -> None:
        asked = asdict(parsed.sampling) | {"max_tokens": parsed.max_tokens}
        if asked not in self.asked and len(self.asked) < _MOST_ASKED:
            self.asked.append(asked)

    def _seed(self, parsed: ModelRequest, agent: str) -> int | None:
        """A seed that depends on the rollout's and on the request alone, not on the order in which calls arrive; equal requests get different ones."""
        if self.sampling.seed is None:
            return None
        messages = None if parsed.read is None else parsed.read.digest
        key = hash_id(agent, messages, parsed.prompt, [dict(tool) for tool in parsed.tools])
        self._seen[key] += 1
        return int(hash_id("call", self.sampling.seed, key, self._seen[key])[:12], 16)


class LiveRecorder:
    """The rollouts in progress. There is no journal: a rollout that is interrupted is played again as the same slot."""

    def __init__(self, shared_key: str | None = None) -> None:
        """`shared_key` is good for all rollouts; None is no such key."""
        self._shared_key = shared_key
        self._by_name: dict[str, LiveRollout] = {}
        self._by_key: dict[str, str] = {}

    def begin(self, live: LiveRollout) -> None:
        """Takes calls for a rollout from now on."""
        self._by_name[live.name], self._by_key[live.key] = live, live.name

    def end(self, live: LiveRollout) -> None:
        """Takes none from now on: later ones, and those in flight, are refused and not recorded."""
        self._by_name.pop(live.name, None)
        self._by_key.pop(live.key, None)

    def name_of(self, key: str) -> str | None:
        """The rollout of a key; "" for the one of all rollouts, None for an unknown one."""
        shared = self._shared_key is not None and secrets.compare_digest(key.encode(), self._shared_key.encode())
        return "" if shared else self._by_key.get(key)

    def opened(self, name: str) -> OpenRollout | None:
        """See CallRecorder."""
        live = self._by_name.get(name)
        return None if live is None else live.served

    def live(self, name: str | None) -> LiveRollout:
        """A rollout in progress. Raises ApiError (409)."""
        found = self._by_name.get(name or "")
        if found is None:
            raise conflict("The rollout has ended.", "rollout_finished")
        return found

    def forced(self, parsed: ModelRequest, caller: Caller) -> ModelRequest:
        """`Service.forced`."""
        return self.live(caller.rollout_id).forced(parsed, caller.agent)

    @contextlib.contextmanager
    def calling(self, name: str) -> Iterator[OpenRollout]:
        """See CallRecorder."""
        served = self.live(name).served
        served.in_flight += 1
        try:
            yield served
        finally:
            served.in_flight -= 1

    def record(self, rollout: OpenRollout, call: Call) -> None:
        """See CallRecorder."""
        self.live(rollout.name)
        rollout.add(call)

    async def finish(self, name: str, ending: Ending) -> dict[str, Any]:
        """See CallRecorder. The rows are written when the program has ended."""
        live = self.live(name)
        if live.ending is not None and live.ending.to_json() != ending.to_json():
            raise conflict("The rollout was finished otherwise before.", "rollout_finished")
        live.ending = ending
        return {"rollout_id": name, "status": "finished", "calls": len(live.served.calls)}

    async def score(self, name: str, score: Score) -> dict[str, Any]:
        """See CallRecorder; always refused."""
        raise conflict("A rollout of a run is scored with /finish.", "rollout_open")

    def state(self, name: str) -> dict[str, Any]:
        """See CallRecorder."""
        live = self.live(name)
        return {"rollout_id": name, "status": "open", "calls": len(live.served.calls)}


async def _value(given: Any) -> Any:
    """What an environment gave, or what it is once awaited."""
    return await given if inspect.isawaitable(given) else given
