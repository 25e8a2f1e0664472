"""Weights from GPU to GPU by vLLM's own weight transfer: CUDA IPC where learner and engine share one, NCCL where they do not.

The learner's ranks each run vLLM's trainer side over their own (merged, cast) weights; rank 0 drives the engines. Not run on a GPU. No file is
kept, so an engine that dies is not restarted: its run ends and can be resumed.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ....base.errors import ConfigError, TrainingError
from ....policies.engines.base import TokenEngine
from ....policies.engines.cluster import call
from ....policies.engines.restarting import RestartingEngine
from ....policies.engines.vllm_client import engine_gone
from ..learner.restarting import RestartingLearner

BACKENDS = {"cuda_ipc": "ipc", "nccl": "nccl"}
_TIMEOUT_S = 600


def engine_arguments(kind: str) -> dict[str, Any]:
    """Engine arguments that a sync of this kind needs; those of files need none."""
    return {"weight_transfer_config": {"backend": BACKENDS[kind]}} if kind in BACKENDS else {}


@dataclass
class EngineClient:
    """The engines as vLLM's trainer side sees them (its VLLMWeightSyncClient). Travels to the learner's ranks.

    Attributes:
        actors: Ray handles, one an engine.
        parallel: Workers of each engine.
        version: Of the weights that are being sent.
    """

    actors: Sequence[Any]
    parallel: int = 1
    version: int = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """The handshake, with a place of its own for each engine."""
        infos = places_of(init_info, len(self.actors), self.parallel)
        self._all([("connect", info) for info in infos])

    def start_weight_update(self) -> None:
        """Engines take no step from here on."""
        self._all([("begin",)] * len(self.actors))

    def update_weights(self, update_info: Any) -> None:
        """Engines take tensors."""
        self._all([("receive", update_info)] * len(self.actors))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Engines continue, with the new weights as `version`."""
        self._all([("finish", self.version)] * len(self.actors))

    def _all(self, steps: Sequence[tuple]) -> None:
        calls = [actor.transfer.remote(*step) for actor, step in zip(self.actors, steps, strict=True)]
        call(calls, _TIMEOUT_S, engine_gone)


def places_of(init_info: dict[str, Any], engines: int, parallel: int) -> list[dict[str, Any]]:
    """Handshakes, one an engine: in an NCCL group the workers of engine i follow those of engine i - 1, whom vLLM takes for its own ranks."""
    if "rank_offset" not in init_info:
        return [init_info] * engines
    return [init_info | {"rank_offset": init_info["rank_offset"] + i * parallel} for i in range(engines)]


class TransferSync:
    """A WeightSync on GPUs. The learner is a group whose `run(function, *arguments)` calls `function(learner, *arguments)` in every rank."""

    def __init__(self, kind: str, learner: Any, engine: TokenEngine, dtype: str | None = None) -> None:
        if kind not in BACKENDS:
            raise ConfigError(f"Unknown weight sync {kind!r}.", f"On GPUs it is one of {', '.join(BACKENDS)}.")
        engines = [_vllm(one) for one in getattr(engine, "engines", (engine,))]
        if None in engines or not hasattr(learner, "run") or "cpu" in learner.run(device_of):
            raise ConfigError(
                f"The weight sync {kind} is for vLLM and a learner on GPUs.",
                "Set policy.generation.weight_sync=auto.",
            )
        self.kind, self.adapters = kind, False
        self.seconds: dict[str, float] = {}
        self._learner, self._engine = learner, engine
        self._client = EngineClient([one.actor for one in engines], engines[0].parallel)
        for one in getattr(engine, "engines", (engine,)):
            if isinstance(one, RestartingEngine):
                one.max_restarts = one.restarts  # no file to restart from
        if isinstance(learner, RestartingLearner):
            learner.max_restarts = learner.restarts  # nor could another learner send to these engines
        workers = len(engines) * self._client.parallel
        learner.run(open_sender, BACKENDS[kind], self._client, dtype or "float32", workers)

    def push(self, version: int) -> None:
        """See WeightSync."""
        begin = time.perf_counter()
        self._learner.run(send, version)
        for one in (self._engine, *getattr(self._engine, "engines", ())):
            one.version = version
            inner = getattr(one, "engine", None)
            if inner is not None:
                inner.version = version
        self.seconds = {"write": 0.0, "load": time.perf_counter() - begin}

    @contextmanager
    def training(self, version: int) -> Iterator[None]:
        """See WeightSync; nothing is read while the learner steps."""
        yield

    def close(self) -> None:
        """See WeightSync."""
        with suppress(TrainingError):  # a dead learner has left the group; its own error is reported
            self._learner.run(close_sender)


def _vllm(engine: TokenEngine) -> Any:
    inner = engine.engine if isinstance(engine, RestartingEngine) else engine
    return inner if hasattr(inner, "actor") else None


# -- in every rank of the learner ------------------------------------------------------------------------------------------


def device_of(learner: Any) -> str:
    """What it runs on."""
    return learner.settings.device


def open_sender(learner: Any, backend: str, client: EngineClient, dtype: str, workers: int) -> None:
    """Opens vLLM's trainer side over the learner's weights; rank 0 shakes hands with the engines."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    info = trainer_info(backend, learner.rank, workers)
    source = weight_source(learner, dtype)
    learner.sender = WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)


def trainer_info(backend: str, rank: int, workers: int) -> Any:
    """vLLM's init info of a learner rank; `workers` are those of all engines. Rank 0 and they make an NCCL group."""
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=rank, packed=True)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    address = _own_address()
    return NCCLTrainerInitInfo(
        master_address=address, master_port=_free_port(address), world_size=1 + workers, rank=rank
    )


def weight_source(learner: Any, dtype: str) -> Any:
    """The learner's weights as vLLM's trainer side reads them: under a model folder's names, adapters merged, cast to `dtype`, in one piece on every rank."""
    import torch
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource, materialize_full_tensor

    from ...weights import folder_weights, own_weights

    wire = getattr(torch, dtype)

    class Merged(WeightSource):
        def __init__(self) -> None:
            self._metadata: list[Any] | None = None

        def metadata(self) -> list[Any]:
            if self._metadata is None:
                self._metadata = [ParamMeta(name, wire, tuple(tensor.shape)) for name, tensor in _merged()]
            return self._metadata

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            for name, tensor in _merged():
                yield name, tensor.to(wire)

    def _merged() -> Any:
        return folder_weights(learner.model, own_weights(learner.model, materialize_full_tensor)).items()

    return Merged()


def send(learner: Any, version: int) -> None:
    """Sends the weights of now."""
    learner.sender.client.version = version
    learner.sender.send_weights()


def close_sender(learner: Any) -> None:
    """Leaves the group."""
    learner.sender.shutdown()
    learner.sender = None


def _own_address() -> str:
    """This machine's address as the cluster knows it."""
    import ray

    return ray.util.get_node_ip_address()


def _free_port(address: str) -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return free.getsockname()[1]
