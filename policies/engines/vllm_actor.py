"""The handle of a vLLM engine in a Ray actor, and how such engines are opened: one, or several that answer as one."""

import asyncio
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError
from ...base.packages import need, require
from ...store.ids import hash_id
from ..chat import ChatFormat
from ..models import architecture_hash, check_model_folder, context_length, model_config
from ..types import Sampling
from .base import OnTokens, SampledTokens
from .cluster import call, our_error, require_resources
from .replicas import ReplicatedEngine
from .vllm_client import SHAPES, Client, EngineActor, engine_gone


class VllmActorEngine:
    """A TokenEngine: the handle of a vLLM engine in a Ray actor. Picklable; the copy does not own the actor.

    `max_model_len` is this handle's; the engine's own may be larger. `timeout_s` is for one request. `parallel` is the engine's workers. `adapter` is the
    number of the adapter that answers this handle's requests; 0 for none.
    """

    kind = "vllm"
    streams = True
    shapes = SHAPES

    def __init__(
        self,
        actor: Any,
        key: str,
        max_model_len: int,
        timeout_s: float = 600.0,
        owned: bool = False,
        parallel: int = 1,
        adapter: int = 0,
    ) -> None:
        self.actor = actor
        self.adapter = adapter
        self.parallel = parallel
        self.key = key
        self.max_model_len = max_model_len
        self.timeout_s = timeout_s
        self.version = 0
        self.longest_of: int | None = None  # the model's own context, where as much of it as fits was taken
        self._owned = owned
        self._clients: dict[asyncio.AbstractEventLoop, Client] = {}
        self._clients_lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return VllmActorEngine, (self.actor, self.key, self.max_model_len, self.timeout_s, False, self.parallel, self.adapter)  # fmt: skip

    def adapted(self, folder: Path) -> "VllmActorEngine":
        """A handle of the same engine whose requests an adapter in peft's layout answers. Raises EngineError where the engine does not take it.

        The engine must have been opened with `adapter_options`.
        """
        number = call(self.actor.add_adapter.remote(str(folder)), self.timeout_s, engine_gone)
        shared: dict[str, Any] = {"timeout_s": self.timeout_s, "parallel": self.parallel}
        return VllmActorEngine(self.actor, self.key, self.max_model_len, adapter=number, **shared)

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> SampledTokens:
        """See TokenEngine."""
        return await self._client().ask(prompt_ids, sampling, on_tokens, self.adapter)

    async def score(self, token_ids: list[int]) -> list[float]:
        """See TokenEngine."""
        return await self._client().ask(token_ids, None, None, self.adapter)

    async def load_weights(self, path: str, version: int) -> None:
        """See TokenEngine."""
        answer = asyncio.wrap_future(self.actor.load_weights.remote(str(path), version).future())
        try:
            await asyncio.wait_for(answer, self.timeout_s)
        except Exception as error:
            raise our_error(error, engine_gone) from error
        self.version = version

    async def transfer(self, step: str, *given: Any) -> None:
        """A step of a weight transfer, or `sleep` and `wake`; see vllm_transfer."""
        answer = asyncio.wrap_future(self.actor.transfer.remote(step, *given).future())
        try:
            await asyncio.wait_for(answer, self.timeout_s)
        except Exception as error:
            raise our_error(error, engine_gone) from error

    def _client(self) -> Client:
        """The client of the running event loop: each loop has its own, and several may send requests at once."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = Client(self.actor, self.timeout_s)
            with self._clients_lock:
                live = {other: one for other, one in self._clients.items() if not other.is_closed()}
                self._clients = live | {loop: client}
        return client

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
    stop_ids: Sequence[int] = (),
    take_over: bool = True,
    placed: Sequence[dict[str, Any]] | None = None,
    **options: Any,
) -> VllmActorEngine | ReplicatedEngine:
    """A vLLM engine with this model's weights, as version 0; Ray must be running (`ensure_ray`).

    Engines of the same architecture and options that this process started before are taken over: their weights are swapped and
    closing the handle leaves them running. Those of other options that hold the GPUs these need are closed.

    Args:
        max_model_len: None is the model's own limit, or as much of it as vLLM's cache holds, with a warning.
        num_gpus: Of each engine; None is one if the cluster has any. An engine split over several always has them whole.
        tensor_parallel_size: GPUs of one machine that each engine's weights are split over (processes, without a GPU).
        data_parallel_size: So many engines, each with all the weights, behind one handle.
        stop_ids: Tokens that end a turn; none are those of the model's own chat format.
        take_over: False starts new engines whatever runs already.
        placed: Ray options of each engine, of a Placement; they take the place of num_gpus and of the check for room. Such engines are new.
        options: Further vLLM EngineArgs.

    Raises ConfigError, MissingExtra, EngineError.
    """
    if tensor_parallel_size < 1 or data_parallel_size < 1:
        raise ConfigError("A parallel size is below 1.", "Leave it out for one engine on one device.")
    folder = check_model_folder(model)
    need("ray")
    require("vllm")
    stop_ids = tuple(stop_ids) or ChatFormat.of(folder).stop_token_ids
    num_gpus = _gpus_of_each(placed[0]["num_gpus"] if placed is not None else num_gpus, tensor_parallel_size)
    if tensor_parallel_size > 1:
        _check_split(folder, tensor_parallel_size)
        options = {**options, "tensor_parallel_size": tensor_parallel_size}
    if not num_gpus:
        options = {"dtype": "float32", **options}  # what it is on a CPU anyway: saying so makes no other engine
    key = hash_id(architecture_hash(folder), stop_ids, options, float(num_gpus))
    own = context_length(folder)
    taken = _running(key, max_model_len, own, data_parallel_size) if take_over and placed is None else []
    missing = data_parallel_size - len(taken)
    if placed is None:
        _make_room(missing, num_gpus, taken)
        placed = [{"num_cpus": 1, "num_gpus": num_gpus}] * missing
    # Each has a seed of its own, or two would answer a prompt alike.
    actors = [_start(placed[i], str(folder), stop_ids, max_model_len, seed + i, options) for i in range(missing)]
    _wait_until_ready(actors, taken, folder, start_timeout_s)
    shared: dict[str, Any] = {"timeout_s": request_timeout_s, "parallel": tensor_parallel_size}
    lengths = [max_model_len or min(engine.max_model_len, own or engine.max_model_len) for engine in taken]
    handles = [VllmActorEngine(engine.actor, key, length, **shared) for engine, length in zip(taken, lengths, strict=True)]  # fmt: skip
    lengths = [max_model_len or call(actor.max_model_len.remote(), start_timeout_s, engine_gone) for actor in actors]
    started = [VllmActorEngine(actor, key, length, owned=True, **shared) for actor, length in zip(actors, lengths, strict=True)]  # fmt: skip
    for engine in started:
        engine.longest_of = own if max_model_len is None else None
    if max_model_len is None and lengths:
        _warn_of_less(own, min(lengths))
    _open.extend(started)
    engines = handles + started
    return engines[0] if data_parallel_size == 1 else ReplicatedEngine(engines)


def _gpus_of_each(wanted: float | None, split: int) -> float:
    """GPUs of an engine; None wants one if the cluster has any, and one split over several has them whole."""
    import ray

    gpus = min(1, ray.cluster_resources().get("GPU", 0)) if wanted is None else wanted
    return gpus if split == 1 else split * bool(gpus)


def _start(place: dict[str, Any], *arguments: Any) -> Any:
    """The actor of an engine that is starting; `arguments` as EngineActor's."""
    import ray

    return ray.remote(EngineActor).options(max_concurrency=10_000, **place).remote(*arguments)


def _wait_until_ready(new: list[Any], taken: list[VllmActorEngine], folder: Path, timeout_s: float) -> None:
    """Until new actors are up and engines taken over have the weights. Raises EngineError; the new ones are then ended."""
    import ray

    try:
        for answer in [actor.ready.remote() for actor in new]:
            call(answer, timeout_s, engine_gone)
        for answer in [engine.actor.load_weights.remote(str(folder), 0) for engine in taken]:
            call(answer, timeout_s, engine_gone)
    except BaseException:
        for actor in new:
            ray.kill(actor)
        raise


def _check_split(folder: Path, parts: int) -> None:
    """Raises ConfigError for a model whose attention heads cannot be split."""
    heads = model_config(folder).get("num_attention_heads")
    if heads and heads % parts:
        raise ConfigError(
            f"The {heads} attention heads of {folder} cannot be split over {parts}.",
            "Give --tensor-parallel-size a divisor of it, or use --data-parallel-size.",
        )


def _warn_of_less(own: int | None, length: int) -> None:
    """Says that the context is shorter than the model's own."""
    if own is not None and length < own:
        print(
            f"warning: vLLM serves a context of {length} tokens; the model's own limit is {own}. Where the cache of keys and values is too small, raise "
            "VLLM_CPU_KVCACHE_SPACE (GiB, on a CPU) or policy.generation.vllm.gpu_memory_utilization.",
            file=sys.stderr,
            flush=True,
        )


def _running(key: str, max_model_len: int | None, own: int | None, at_most: int) -> list[VllmActorEngine]:
    """Engines of this process that can be taken over: with a context that is as long, or, for None, the longest that fits."""
    found: list[VllmActorEngine] = []

    def is_long(engine: VllmActorEngine) -> bool:
        wanted = max_model_len or own
        return wanted is not None and (engine.max_model_len >= wanted or (not max_model_len and engine.longest_of == own))  # fmt: skip

    for engine in [engine for engine in _open if engine.key == key and is_long(engine)]:
        if len(found) == at_most:
            break
        if _alive(engine):
            found.append(engine)
        else:
            _open.remove(engine)
    return found


def _make_room(engines: int, num_gpus: float, keep: list[VllmActorEngine]) -> None:
    """Checks that `count` more engines can be placed. Raises EngineError."""
    import ray

    if not engines:
        return
    if engines * num_gpus > ray.available_resources().get("GPU", 0):
        for engine in [engine for engine in _open if engine not in keep]:
            engine.close()
    who = "the vLLM engine" if engines == 1 else f"{engines} vLLM engines"
    fix = "End what else runs on the cluster, or ask for smaller parallel sizes."
    require_resources(who, fix, cpus=engines, gpus=engines * num_gpus)


def _alive(engine: VllmActorEngine) -> bool:
    import ray

    try:
        ray.get(engine.actor.ready.remote(), timeout=30)
    except Exception:  # a dead actor, or one of a cluster that has ended
        return False
    return True
