"""Weights through Ray's object store: for engines on other machines than the learner.

The learner writes its file as always. It travels in chunks, each fetched once by every machine that has an engine, into a file of the
same layout there, and the engines read that. Few chunks are in transfer at once, so the object store may be smaller than the model.
"""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ....base.errors import EngineError, TrainingError
from ....base.event_loop import run_blocking
from ....policies.engines.base import TokenEngine
from ....policies.engines.cluster import call
from ....policies.engines.placement import engine_node
from ....policies.engines.restarting import new_weights
from .base import LearnerLike, weights_folder

CHUNK_BYTES = 32 * 2**20
CHUNKS_UNDER_WAY = 3
_TIMEOUT_S = 600


class NodeFile:
    """The weights file of one machine. Runs in a Ray actor there."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self.path = str(self._opened.enter_context(weights_folder()) / "weights.safetensors")
        self._mapped: mmap.mmap | None = None

    def where(self) -> str:
        """Its path on that machine."""
        return self.path

    def size(self) -> int:
        """Its bytes."""
        return os.path.getsize(self.path)

    def read(self, begin: int, end: int) -> Any:
        """Bytes `begin` to `end`, as a NumPy array: one copy, into the object store."""
        import numpy

        with open(self.path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return numpy.frombuffer(mapped, numpy.uint8, end - begin, begin)

    def write(self, begin: int, chunk: Any, size: int) -> None:
        """Puts a chunk in its place in a file of `size` bytes, which is created again when it had another size."""
        if self._mapped is None or len(self._mapped) != size:
            self._mapped = self._make(size)
        self._mapped[begin : begin + len(chunk)] = memoryview(chunk)

    def _make(self, size: int) -> mmap.mmap:
        new = f"{self.path}.new"
        with open(new, "w+b") as file:
            file.truncate(size)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                os.unlink(new)
                raise TrainingError(
                    f"No room for {size / 2**20:.0f} MiB of weights in {Path(new).parent} of an engine's machine: {error.strerror}.",
                    "Enlarge it (in a container /dev/shm is small by default: --shm-size).",
                ) from error
            mapped = mmap.mmap(file.fileno(), size)
        os.replace(new, self.path)
        return mapped

    def close(self) -> None:
        """Removes it."""
        self._opened.close()


class ObjectStoreSync:
    """A WeightSync over the machines of a Ray cluster. The learner's machine is `learner.node()`, this process's where it has none."""

    kind = "object_store"
    adapters = False

    def __init__(self, learner: LearnerLike, engine: TokenEngine, dtype: str | None = None) -> None:
        self._learner, self._engine, self._dtype = learner, engine, dtype
        self._home = learner_node(learner)
        self._files: dict[str, Any] = {}  # by node: its NodeFile
        self._paths: dict[str, str] = {}
        self._source = self._path(self._home)
        self.seconds: dict[str, float] = {}

    def push(self, version: int) -> None:
        """See WeightSync."""
        begin = time.perf_counter()
        engines = list(getattr(self._engine, "engines", (self._engine,)))
        nodes = engine_nodes(self._engine)
        paths = [self._path(node) for node in nodes]
        with ExitStack() as held:
            for one, path in zip(engines, paths, strict=True):
                held.enter_context(new_weights(one, path, version))
            self._learner.save_weights(self._source, self._dtype)
            self._spread(sorted(set(nodes) - {self._home}))
        written = time.perf_counter()
        if len(engines) == 1:
            run_blocking(self._engine.load_weights(paths[0], version))
        else:
            run_blocking(self._engine.load_each(paths, version))  # type: ignore[attr-defined]
        self.seconds = {"write": written - begin, "load": time.perf_counter() - written}

    def _spread(self, nodes: list[str]) -> None:
        """The file of the learner's machine to these nodes, a few chunks at a time."""
        source, under_way = self._files[self._home], []
        size = call(source.size.remote(), _TIMEOUT_S, _lost) if nodes else 0
        for begin in range(0, size, CHUNK_BYTES):
            chunk = source.read.remote(begin, min(size, begin + CHUNK_BYTES))
            under_way.append([self._files[node].write.remote(begin, chunk, size) for node in nodes])
            del chunk  # or it would stay in the object store
            if len(under_way) >= CHUNKS_UNDER_WAY:
                call(under_way.pop(0), _TIMEOUT_S, _lost)
        for writes in under_way:
            call(writes, _TIMEOUT_S, _lost)

    def _path(self, node: str) -> str:
        """Of the weights file on a node, whose actor is started when there is none."""
        if node not in self._files:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            there = NodeAffinitySchedulingStrategy(node, soft=False)
            file: Any = ray.remote(NodeFile).options(num_cpus=0, scheduling_strategy=there).remote()
            self._paths[node] = call(file.where.remote(), _TIMEOUT_S, _lost)
            self._files[node] = file
        return self._paths[node]

    @contextmanager
    def training(self, version: int) -> Iterator[None]:
        """See WeightSync; the files do not change while the learner steps."""
        with nullcontext():
            yield

    def close(self) -> None:
        """See WeightSync."""
        import ray

        files, self._files = self._files, {}
        if ray.is_initialized():
            for file in files.values():
                try:
                    ray.get(file.close.remote(), timeout=30)
                except Exception:  # a machine that is gone has taken its file with it
                    continue
                finally:
                    ray.kill(file)


def learner_node(learner: LearnerLike) -> str:
    """Id of the Ray node whose file system the learner's save_weights writes to."""
    import ray

    node = getattr(learner, "node", None)
    return node() if node is not None else ray.get_runtime_context().get_node_id()


def engine_nodes(engine: TokenEngine) -> list[str]:
    """The Ray node of each engine, in the order of a ReplicatedEngine's."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return [engine_node(one) or here for one in getattr(engine, "engines", (engine,))]


def several_nodes(learner: LearnerLike, engine: TokenEngine) -> bool:
    """Whether an engine is on another machine than the learner. False without a Ray cluster."""
    import sys

    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or sum(node["Alive"] for node in ray.nodes()) < 2:
        return False
    return set(engine_nodes(engine)) != {learner_node(learner)}


def _lost(why: str) -> EngineError:
    return EngineError(
        f"Weights did not reach an engine's machine: {why}.", "Check that the machine is reachable, and run again."
    )
