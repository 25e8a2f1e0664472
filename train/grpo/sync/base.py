"""What a weight sync is, and the folder in memory that weights files lie in."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from ....policies.engines.folders import owned_folder

PREFIX = "rollhouse-weights-"


class LearnerLike(Protocol):
    """What a weight sync needs of a learner, local or remote."""

    def save_weights(self, path: str, dtype: str | None = None) -> None:
        """See Learner."""
        ...

    def save_adapters(self, path: str) -> None:
        """See Learner."""
        ...

    def share_weights(self, path: str) -> bool:
        """See Learner."""
        ...

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """See Learner."""
        ...


class WeightSync(Protocol):
    """Brings weights from a learner to an engine. Restarted engines get the weights of the last push.

    Attributes:
        kind: `file`, `object_store`, `cuda_ipc` or `nccl`.
        seconds: Of the last push: `write` (the learner's part and the transfer) and `load` (the engine's).
        adapters: Whether pushes are of adapters alone; False for whole (merged) weights.
    """

    kind: str
    seconds: dict[str, float]
    adapters: bool

    def push(self, version: int) -> None:
        """Gives the engine the learner's current weights as `version`; returns when its next token comes from them."""
        ...

    def training(self, version: int) -> AbstractContextManager[None]:
        """Goes around a learner's step to `version` while requests may be in flight: a restart of a dead engine waits for its end, since it could read half a step."""
        ...

    def close(self) -> None:
        """Removes what the transport keeps; engines restarted afterwards find no weights."""
        ...


@contextmanager
def weights_folder() -> Iterator[Path]:
    """A folder in memory (tmpfs) where there is one, removed at the end; those that killed runs left behind are removed at its start."""
    base = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    folder, lock = owned_folder(PREFIX, base)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
