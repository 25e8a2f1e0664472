"""The vLLM engine in a Ray actor, and the handle that callers hold.

Calls are batched both ways: requests made in one turn of the event loop travel in one call, and one waiting call brings back
whatever has finished. So the cost of an actor call (0.7 ms) is paid per engine step at most, not per request.
"""

import asyncio
import contextlib
import itertools
import json
import uuid
from pathlib import Path
from typing import Any

from ...store.errors import ConfigError, EngineError
from ...store.ids import hash_id
from ..models import architecture_hash, check_model_folder, load_tokenizer, need, require, stop_token_ids
from ..types import Sampling
from .base import EngineGone, Generation
from .cluster import call, our_error, require_resources

_POLL_S = 5.0
_DEFAULT_MODEL_LEN = 4096
_Item = tuple[int, list[int], Sampling | None]
_Result = tuple[int, Any]


class EngineActor:
    """Runs in the Ray worker. A client is one event loop of one handle."""

    def __init__(self, model: str, stop_ids: tuple[int, ...], max_model_len: int, seed: int, options: dict) -> None:
        from .vllm_engine import VllmEngine

        self.engine = VllmEngine(model, stop_ids, max_model_len, seed, **options)
        self.done: dict[str, asyncio.Queue[_Result]] = {}
        self.tasks: dict[tuple[str, int], asyncio.Task] = {}

    async def ready(self) -> int:
        """The process id, once the engine is up."""
        import os

        return os.getpid()

    async def submit(self, client: str, items: list[_Item], abandoned: list[int]) -> None:
        """Starts requests and gives up others; results wait for `poll`."""
        for number in abandoned:
            task = self.tasks.get((client, number))
            if task is not None:
                task.cancel()
        for number, token_ids, sampling in items:
            work = self._answer(client, number, token_ids, sampling)
            self.tasks[client, number] = asyncio.create_task(work)

    async def _answer(self, client: str, number: int, token_ids: list[int], sampling: Sampling | None) -> None:
        try:
            engine = self.engine
            result = await (engine.score(token_ids) if sampling is None else engine.generate(token_ids, sampling))
        except Exception as error:
            result = error
        finally:
            self.tasks.pop((client, number), None)
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


class _Client:
    """The requests of one event loop: an outbox that is sent once a loop turn, and a task that waits for results."""

    def __init__(self, actor: Any, timeout_s: float) -> None:
        self.actor = actor
        self.timeout_s = timeout_s
        self.name = uuid.uuid4().hex
        self.loop = asyncio.get_running_loop()
        self.numbers = itertools.count()
        self.waiting: dict[int, asyncio.Future] = {}
        self.outbox: list[_Item] = []
        self.abandoned: list[int] = []
        self.scheduled = False
        self.poller: asyncio.Task | None = None

    async def ask(self, token_ids: list[int], sampling: Sampling | None) -> Any:
        number = next(self.numbers)
        future = self.waiting[number] = self.loop.create_future()
        self.outbox.append((number, token_ids, sampling))
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
                    "Lower --max-tokens or the number of rollouts in flight.",
                ) from error
            raise

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
            self._fail(our_error(error, _gone))

    async def _poll(self) -> None:
        try:
            while self.waiting:
                answer = asyncio.wrap_future(self.actor.poll.remote(self.name).future())
                for number, result in await asyncio.wait_for(answer, self.timeout_s):
                    future = self.waiting.pop(number, None)
                    if future is None or future.done():
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        except Exception as error:
            self._fail(our_error(error, _gone))

    def _fail(self, error: Exception) -> None:
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(error)
        self.waiting.clear()


class VllmActorEngine:
    """A TokenEngine: the handle of a vLLM engine in a Ray actor. Picklable; the copy does not own the actor.

    `max_model_len` is this handle's; the engine's own may be larger. `timeout_s` is for one request.
    """

    kind = "vllm"

    def __init__(self, actor: Any, key: str, max_model_len: int, timeout_s: float = 600.0, owned: bool = False) -> None:
        self.actor = actor
        self.key = key
        self.max_model_len = max_model_len
        self.timeout_s = timeout_s
        self.version = 0
        self._owned = owned
        self._client: _Client | None = None

    def __reduce__(self) -> tuple:
        return VllmActorEngine, (self.actor, self.key, self.max_model_len, self.timeout_s, False)

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> Generation:
        """See TokenEngine."""
        return await self._ask(prompt_ids, sampling)

    async def score(self, token_ids: list[int]) -> list[float]:
        """See TokenEngine."""
        return await self._ask(token_ids, None)

    async def load_weights(self, path: str, version: int) -> None:
        """See TokenEngine."""
        answer = asyncio.wrap_future(self.actor.load_weights.remote(str(path), version).future())
        try:
            await asyncio.wait_for(answer, self.timeout_s)
        except Exception as error:
            raise our_error(error, _gone) from error
        self.version = version

    async def _ask(self, token_ids: list[int], sampling: Sampling | None) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or self._client.loop is not loop:
            self._client = _Client(self.actor, self.timeout_s)
        return await self._client.ask(token_ids, sampling)

    def close(self) -> None:
        """Ends the actor if this handle started it."""
        if self._owned:
            self._owned = False
            if self in _open:
                _open.remove(self)
            import ray

            if ray.is_initialized():
                ray.kill(self.actor)


# Engines this process started, so that a second `open_vllm` swaps weights instead of paying for another start.
_open: list[VllmActorEngine] = []


def open_vllm(
    model: str | Path,
    *,
    max_model_len: int | None = None,
    seed: int = 0,
    num_gpus: float | None = None,
    start_timeout_s: float = 300,
    request_timeout_s: float = 600,
    tensor_parallel_size: int = 1,
    data_parallel_size: int = 1,
    **options: Any,
) -> VllmActorEngine:
    """A vLLM engine with this model's weights, as version 0; Ray must be running (`ensure_ray`).

    An engine of the same architecture and options that this process started before is taken over: its weights are swapped and
    closing the handle leaves it running. One of other options that holds the GPU this one needs is closed.

    Args:
        max_model_len: None is the model's own limit, at most 4096.
        num_gpus: None is one if the cluster has any.
        options: Further vLLM EngineArgs.

    Raises ConfigError, MissingExtra, EngineError.
    """
    if data_parallel_size != 1:
        raise ConfigError("Only one engine at a time.", "Leave data_parallel_size at 1.")
    if tensor_parallel_size != 1:
        options["tensor_parallel_size"] = tensor_parallel_size
    folder = check_model_folder(model)
    ray = need("ray")
    require("vllm")
    stop_ids = stop_token_ids(folder, load_tokenizer(folder))
    if num_gpus is None:
        num_gpus = min(1, ray.cluster_resources().get("GPU", 0))
    max_model_len = max_model_len or min(_position_limit(folder), _DEFAULT_MODEL_LEN)
    if not num_gpus:
        options = {"dtype": "float32", **options}  # what it is on a CPU anyway: saying so makes no other engine
    key = hash_id(architecture_hash(folder), stop_ids, options, num_gpus)
    for running in [engine for engine in _open if engine.key == key and engine.max_model_len >= max_model_len]:
        if _alive(running):
            engine = VllmActorEngine(running.actor, key, max_model_len, request_timeout_s)
            call(engine.actor.load_weights.remote(str(folder), 0), start_timeout_s, _gone)
            return engine
        _open.remove(running)
    _make_room(num_gpus)
    placed = ray.remote(EngineActor).options(num_cpus=1, num_gpus=num_gpus, max_concurrency=10_000)
    actor = placed.remote(str(folder), stop_ids, max_model_len, seed, options)
    try:
        call(actor.ready.remote(), start_timeout_s, _gone)
    except BaseException:
        ray.kill(actor)
        raise
    _open.append(VllmActorEngine(actor, key, max_model_len, request_timeout_s, owned=True))
    return _open[-1]


def _position_limit(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return config.get("max_position_embeddings") or _DEFAULT_MODEL_LEN


def _make_room(num_gpus: float) -> None:
    """Sees to it that another engine can be placed. Raises EngineError."""
    import ray

    if num_gpus > ray.available_resources().get("GPU", 0):
        for engine in [*_open]:
            engine.close()
    require_resources("the vLLM engine", "End what else runs on the cluster.", gpus=num_gpus)


def _alive(engine: VllmActorEngine) -> bool:
    import ray

    try:
        ray.get(engine.actor.ready.remote(), timeout=30)
    except Exception:  # a dead actor, or one of a cluster that is no more
        return False
    return True


def _gone(why: str) -> EngineGone:
    return EngineGone(
        f"The vLLM engine's process is gone or does not answer: {why}.",
        "Look at free memory (`rollhouse doctor`) and run the same command again; it continues where it stopped.",
    )
