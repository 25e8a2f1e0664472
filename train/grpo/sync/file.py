"""Weights through a mapped file: for engines on the learner's machine."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ....base.event_loop import run_blocking
from ....policies.engines.base import TokenEngine
from ....policies.engines.restarting import new_weights
from .base import LearnerLike, weights_folder


class FileSync:
    """A WeightSync through one safetensors file in memory that is written in place; see policies/engines/weight_file.py.

    With `share_parameters` a learner on a CPU keeps its parameters in that file, and a push is the engine's copy alone. The file then changes
    while the learner steps: step inside `training`, or with no request in flight.
    """

    kind = "file"

    def __init__(
        self, learner: LearnerLike, engine: TokenEngine, dtype: str | None = None, share_parameters: bool = False
    ) -> None:
        self._learner, self._engine, self._dtype = learner, engine, dtype
        self._opened = ExitStack()
        self.path = str(self._opened.enter_context(weights_folder()) / "weights.safetensors")
        self.shared = share_parameters and dtype in (None, "float32") and learner.share_weights(self.path)
        self.seconds: dict[str, float] = {}

    def push(self, version: int) -> None:
        """See WeightSync."""
        begin = time.perf_counter()
        with new_weights(self._engine, self.path, version):
            self._learner.save_weights(self.path, self._dtype)
        written = time.perf_counter()
        run_blocking(self._engine.load_weights(self.path, version))
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
