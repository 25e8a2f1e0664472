"""New weights from the learner to the engine, and the proof that they arrived.

`open_sync(kind, learner, engine, *, dtype=None, share_parameters=False) -> WeightSync` opens a transport; `push(version)` gives the engine the
learner's weights as they are, `close()` ends it (`contextlib.closing` makes a block of it), `training(version)` goes around the learner's
step. Restarted engines get the weights of the last push.

A reload can return without error and leave wrong weights, or right weights beside the old ones' key-value cache. So after every
push the engine is asked in both ways: to score sequences it has seen, and to sample after prompts it may have cached. Other requests may be in
flight meanwhile.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ....collect.engines.base import Generation, TokenEngine
from ....collect.types import Sampling
from ....store.errors import ConfigError, EngineError
from ..learner.batch import Sample

PROBE_SEQUENCES = 4
PROBE_TOKENS = 4
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


def choose_probe(samples: Sequence[Sample]) -> list[Sample]:
    """The sequences of a batch to compare on: the shortest, for speed."""
    return sorted(samples, key=lambda sample: (sample.length, sample.rollout_id))[:PROBE_SEQUENCES]


def verify_weights(
    learner: LearnerLike, engine: TokenEngine, probe: Sequence[Sample], version: int, step: int, tolerance: float
) -> float:
    """The largest difference of a logprob between engine and learner over the probe, at temperature 1.

    Compared are the engine's scores of the probe's sequences, and the logprobs of a few tokens it samples after the probe's
    prompts, whose keys and values it had cached under the old weights. An empty probe gives 0.

    Raises EngineError naming the step when the difference is above `tolerance` or the engine claims another version.
    """
    # A rollout that filled the context ends in a tool result that the engine has no room for.
    whole = [[*sample.prompt_ids, *sample.token_ids][: engine.max_model_len - 1] for sample in probe]
    scores, sampled = asyncio.run(_ask(engine, probe, whole))
    theirs = [score[1:] for score in scores] + [generation.logprobs for generation in sampled]
    asked = [(ids[:1], ids[1:]) for ids in whole]
    asked += [(list(sample.prompt_ids), answer.token_ids) for sample, answer in zip(probe, sampled, strict=True)]
    ours = learner.logprobs(asked)
    worst = max((abs(a - b) for left, right in zip(theirs, ours, strict=True) for a, b in zip(left, right, strict=True)), default=0.0)  # fmt: skip
    claimed = {span.version for answer in sampled for span in answer.version_spans} - {version}
    # Written so that NaN fails too.
    if claimed or not worst <= tolerance:
        found = f"it samples as version {claimed.pop()}" if claimed else f"logprobs differ by up to {worst:.3g}"
        raise EngineError(
            f"After the weight push of step {step} (version {version}) the engine is not the learner: {found}.",
            "Nothing was trained on it. On a GPU or in bfloat16 raise policy.generation.sync_tolerance; else report a bug.",
        )
    return worst


async def _ask(
    engine: TokenEngine, probe: Sequence[Sample], whole: Sequence[list[int]]
) -> tuple[list[list[float]], list[Generation]]:
    scores = [engine.score(token_ids) for token_ids in whole]
    sampling = Sampling(temperature=1.0, max_tokens=PROBE_TOKENS, seed=0)
    answers = [engine.generate(list(sample.prompt_ids), sampling) for sample in probe]
    return list(await asyncio.gather(*scores)), list(await asyncio.gather(*answers))
