"""Weights through a mapped file: for engines on the learner's machine."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ....base.errors import EngineError
from ....base.event_loop import run_blocking
from ....policies.engines.base import EngineGone, TokenEngine
from ....policies.engines.restarting import new_weights
from .base import LearnerLike, weights_folder

log = logging.getLogger("rollhouse")


class FileSync:
    """A WeightSync through one safetensors file in memory that is written in place; see policies/engines/weight_file.py.

    With `share_parameters` a learner on a CPU keeps its parameters in that file, and a push is the engine's copy alone. The file then changes
    while the learner steps: step inside `training`, or with no request in flight.
    """

    kind = "file"

    def __init__(
        self,
        learner: LearnerLike,
        engine: TokenEngine,
        dtype: str | None = None,
        share_parameters: bool = False,
        adapters: bool = False,
    ) -> None:
        """With `adapters` a push is of the adapters alone; where the engine does not take the first one, pushes are of merged weights, which is logged."""
        self._learner, self._engine, self._dtype = learner, engine, dtype
        self._opened = ExitStack()
        folder = self._opened.enter_context(weights_folder())
        self.path, self._adapter_path = str(folder / "weights.safetensors"), str(folder / "adapter.safetensors")
        self.adapters, self._taken = adapters, False
        self.shared = share_parameters and dtype in (None, "float32") and learner.share_weights(self.path)
        self.seconds: dict[str, float] = {}

    def push(self, version: int) -> None:
        """See WeightSync."""
        if self.adapters:
            try:
                self._push(self._adapter_path, version, self._learner.save_adapters)
                self._taken = True
                return
            except EngineError as error:
                if self._taken or isinstance(error, EngineGone):
                    raise
                log.warning("Pushes are of merged weights: %s", error.message)
                self.adapters = False
        self._push(self.path, version, lambda path: self._learner.save_weights(path, self._dtype))

    def _push(self, path: str, version: int, write: Callable[[str], None]) -> None:
        begin = time.perf_counter()
        with new_weights(self._engine, path, version):
            write(path)
        written = time.perf_counter()
        run_blocking(self._engine.load_weights(path, version))
        self.seconds = {"write": written - begin, "load": time.perf_counter() - written}

    @contextmanager
    def training(self, version: int) -> Iterator[None]:
        """See WeightSync."""
        with ExitStack() as held:
            if self.shared:
                held.enter_context(new_weights(self._engine, self.path, version))
            yield

    def close(self) -> None:
        """See WeightSync."""
        self._opened.close()
