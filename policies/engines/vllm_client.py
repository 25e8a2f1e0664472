"""vLLM in a Ray worker, and the client that speaks to it for one event loop.

Calls are batched both ways: requests made in one turn of the event loop travel in one call, and one waiting call brings back
whatever has finished. So the cost of an actor call (0.7 ms) is paid per engine step at most, not per request.
"""

import asyncio
import contextlib
import itertools
import uuid
from dataclasses import dataclass
from typing import Any

from ...base.errors import EngineError, RollhouseError
from ..types import Sampling
from .base import EngineGone, OnTokens
from .cluster import our_error

_POLL_S = 5.0
_Item = tuple[int, list[int], Sampling | None, bool, int]
"""Number, tokens, sampling (None scores them), whether tokens are reported as they are sampled, and the adapter (0 for none)."""
_Result = tuple[int, Any]
SHAPES = frozenset({"frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "min_tokens", "constraint", "top_logprobs"})  # fmt: skip
"""As TokenEngine.shapes."""


@dataclass(frozen=True)
class _Part:
    """Tokens of a request that goes on."""

    token_ids: list[int]
    logprobs: list[float]
    version: int


class EngineActor:
    """Runs in the Ray worker. A client is one event loop of one handle."""

    def __init__(
        self, model: str, stop_ids: tuple[int, ...], max_model_len: int | None, seed: int, options: dict
    ) -> None:
        from .vllm_engine import VllmEngine

        self.failure: RollhouseError | None = (
            None  # why it did not start, which `ready` raises: an actor whose start fails dies with it
        )
        try:
            self.engine = VllmEngine(model, stop_ids, max_model_len, seed, **options)
        except RollhouseError as error:
            self.failure = error
        self.done: dict[str, asyncio.Queue[_Result]] = {}
        self.tasks: dict[tuple[str, int], asyncio.Task] = {}

    async def ready(self) -> int:
        """The process id, once the engine is up. Raises EngineError when it did not start."""
        import os

        if self.failure is not None:
            raise self.failure
        return os.getpid()

    async def node(self) -> str:
        """Id of the Ray node it runs on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    async def max_model_len(self) -> int:
        """See VllmEngine."""
        return self.engine.max_model_len

    async def dtype(self) -> str:
        """See VllmEngine."""
        return self.engine.dtype

    async def submit(self, client: str, items: list[_Item], abandoned: list[int]) -> None:
        """Starts requests and aborts others; results wait for `poll`."""
        for number in abandoned:
            task = self.tasks.get((client, number))
            if task is not None:
                task.cancel()
        for item in items:
            self.tasks[client, item[0]] = asyncio.create_task(self._answer(client, item))

    async def _answer(self, client: str, item: _Item) -> None:
        number, token_ids, sampling, streams, adapter = item

        def on_tokens(sampled: list[int], logprobs: list[float], version: int) -> None:
            self._put(client, number, _Part(sampled, logprobs, version))

        try:
            if sampling is None:
                result = await self.engine.score(token_ids, adapter)
            else:
                result = await self.engine.generate(token_ids, sampling, on_tokens if streams else None, adapter)
        except Exception as error:
            result = error
        finally:
            self.tasks.pop((client, number), None)
        self._put(client, number, result)

    def _put(self, client: str, number: int, result: Any) -> None:
        self.done.setdefault(client, asyncio.Queue()).put_nowait((number, result))

    async def poll(self, client: str) -> list[_Result]:
        """What has finished since the last call; waits for the first, at most a few seconds.

        A client with nothing in flight is forgotten here, between two results: calls of an asyncio actor may overtake each other, so a call of
        its own could throw away the answer to a request that was made after it.
        """
        done = self.done.setdefault(client, asyncio.Queue())
        results = []
        with contextlib.suppress(TimeoutError):
            results.append(await asyncio.wait_for(done.get(), _POLL_S))
        while not done.empty():
            results.append(done.get_nowait())
        if not any(owner == client for owner, _ in self.tasks):
            self.done.pop(client, None)
        return results

    async def load_weights(self, path: str, version: int) -> None:
        """See TokenEngine."""
        await self.engine.load_weights(path, version)

    async def add_adapter(self, folder: str) -> int:
        """See VllmEngine."""
        return await self.engine.add_adapter(folder)

    async def transfer(self, step: str, *given: Any) -> None:
        """See VllmEngine."""
        await self.engine.transfer(step, *given)


class Client:
    """The requests of one event loop: an outbox that is sent once a loop turn, and a task that waits for results."""

    def __init__(self, actor: Any, timeout_s: float) -> None:
        self.actor = actor
        self.timeout_s = timeout_s
        self.name = uuid.uuid4().hex
        self.loop = asyncio.get_running_loop()
        self.numbers = itertools.count()
        self.waiting: dict[int, asyncio.Future] = {}
        self.listening: dict[int, OnTokens] = {}
        self.outbox: list[_Item] = []
        self.abandoned: list[int] = []
        self.scheduled = False
        self.poller: asyncio.Task | None = None

    async def ask(
        self, token_ids: list[int], sampling: Sampling | None, on_tokens: OnTokens | None = None, adapter: int = 0
    ) -> Any:
        number = next(self.numbers)
        future = self.waiting[number] = self.loop.create_future()
        if on_tokens is not None:
            self.listening[number] = on_tokens
        self.outbox.append((number, token_ids, sampling, on_tokens is not None, adapter))
        self._schedule()
        if self.poller is None or self.poller.done():
            self.poller = self.loop.create_task(self._poll())
        try:
            return await asyncio.wait_for(future, self.timeout_s)
        except (asyncio.CancelledError, TimeoutError) as error:
            self.waiting.pop(number, None)
            self.abandoned.append(number)
            self._schedule()
            if isinstance(error, TimeoutError):
                raise EngineError(
                    f"The engine did not answer a request within {self.timeout_s:.0f} s.",
                    "Lower --max-new-tokens or the number of rollouts in flight.",
                ) from error
            raise
        finally:
            self.listening.pop(number, None)

    def _schedule(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._send)

    def _send(self) -> None:
        self.scheduled = False
        items, self.outbox = self.outbox, []
        abandoned, self.abandoned = self.abandoned, []
        try:
            self.actor.submit.remote(self.name, items, abandoned)
        except Exception as error:
            self._fail(our_error(error, engine_gone))

    async def _poll(self) -> None:
        try:
            while self.waiting:
                answer = asyncio.wrap_future(self.actor.poll.remote(self.name).future())
                for number, result in await asyncio.wait_for(answer, self.timeout_s):
                    if isinstance(result, _Part):
                        listener = self.listening.get(number)
                        if listener is not None:
                            listener(result.token_ids, result.logprobs, result.version)
                        continue
                    future = self.waiting.pop(number, None)
                    if future is None or future.done():
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        except Exception as error:
            self._fail(our_error(error, engine_gone))

    def _fail(self, error: Exception) -> None:
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(error)
        self.waiting.clear()


def engine_gone(why: str) -> EngineGone:
    """The error of an engine that will never answer again."""
    return EngineGone(
        f"The vLLM engine's process is gone or does not answer: {why}.",
        "Look at free memory (`rollhouse doctor`) and run the same command again; it continues where it stopped.",
    )
