"""Which weight sync a run uses; verify.py checks that the weights arrived."""

from ....base.errors import ConfigError
from ....policies.engines.base import TokenEngine
from .base import LearnerLike, WeightSync
from .file import FileSync
from .object_store import ObjectStoreSync, several_nodes
from .transfer import TransferSync

KINDS = ("auto", "file", "object_store", "cuda_ipc", "nccl")


def open_sync(
    kind: str,
    learner: LearnerLike,
    engine: TokenEngine,
    *,
    dtype: str | None = None,
    share_parameters: bool = False,
    adapters: bool = False,
) -> WeightSync:
    """The transport of `policy.generation.weight_sync`.

    Args:
        kind: `file` for engines on the learner's machine, `object_store` for those on others, `cuda_ipc` and `nccl` on GPUs; `auto` is one of the
            first two, as engine and learner are placed.
        dtype: What the engine computes in (`bfloat16`, …): the weights travel in it. None is float32.
        share_parameters: Let a float32 learner on a CPU keep its parameters in the file (`file` only); see FileSync.
        adapters: Push adapters alone (`file` only), where the engine takes them; see FileSync.

    Raises ConfigError for an unknown kind, and for one that engine and learner do not allow.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"Unknown weight sync {kind!r}.", f"policy.generation.weight_sync is one of {', '.join(KINDS)}."
        )
    if kind == "auto":
        kind = "object_store" if several_nodes(learner, engine) else "file"
    if kind == "file":
        return FileSync(learner, engine, dtype, share_parameters, adapters and engine.kind == "vllm")
    if kind == "object_store":
        return ObjectStoreSync(learner, engine, dtype)
    return TransferSync(kind, learner, engine, dtype)
