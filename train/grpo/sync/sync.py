"""New weights from the learner to the engine; verify.py proves that they arrived.

`open_sync(kind, learner, engine, *, dtype=None, share_parameters=False) -> WeightSync` opens a transport; `push(version)` gives the engine the
learner's weights as they are, `close()` ends it (`contextlib.closing` makes a block of it), `training(version)` goes around the learner's
step. Restarted engines get the weights of the last push.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ....base.errors import ConfigError
from ....policies.engines.base import TokenEngine

KINDS = ("auto", "file", "object_store", "cuda_ipc", "nccl")


class LearnerLike(Protocol):
    """What weight pushing needs of a learner, local or remote."""

    def save_weights(self, path: str, dtype: str | None = None) -> None:
        """See Learner."""
        ...

    def share_weights(self, path: str) -> bool:
        """See Learner."""
        ...

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """See Learner."""
        ...


class WeightSync(Protocol):
    """The way of weights from a learner to an engine.

    Attributes:
        kind: One of KINDS, never auto.
        seconds: Of the last push: `write` (the learner's part and the way) and `load` (the engine's).
    """

    kind: str
    seconds: dict[str, float]

    def push(self, version: int) -> None:
        """Gives the engine the learner's weights of now as `version`; returns when its next token comes from them. Not from within an event loop."""
        ...

    def training(self, version: int) -> AbstractContextManager[None]:
        """Goes around a learner's step to `version` while requests may be in flight: a dead engine waits for its end, where it could read half a step."""
        ...

    def close(self) -> None:
        """Removes what the transport keeps; restarted engines find no weights any more."""
        ...


def open_sync(
    kind: str,
    learner: LearnerLike,
    engine: TokenEngine,
    *,
    dtype: str | None = None,
    share_parameters: bool = False,
) -> WeightSync:
    """The transport of `policy.generation.weight_sync`.

    Args:
        kind: `file` for engines on the learner's machine, `object_store` for those on others, `cuda_ipc` and `nccl` on GPUs; `auto` is one of the
            first two, as engine and learner are placed.
        dtype: What the engine computes in (`bfloat16`, …): the weights travel in it. None is float32.
        share_parameters: Let a float32 learner on a CPU keep its parameters in the file (`file` only); see FileSync.

    Raises ConfigError for a kind that there is not, or that engine and learner do not allow.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"There is no weight sync {kind!r}.", f"policy.generation.weight_sync is one of {', '.join(KINDS)}."
        )
    if kind == "auto":
        from .object_store import several_nodes

        kind = "object_store" if several_nodes(learner, engine) else "file"
    if kind == "file":
        from .file import FileSync

        return FileSync(learner, engine, dtype, share_parameters)
    if kind == "object_store":
        from .object_store import ObjectStoreSync

        return ObjectStoreSync(learner, engine, dtype)
    from .transfer import TransferSync

    return TransferSync(kind, learner, engine, dtype)
