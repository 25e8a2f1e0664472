"""New weights from the learner to the engine, and the proof that they arrived.

A reload can return without error and leave wrong weights, or right weights beside the old ones' key-value cache. So after every
push the engine is asked in both ways: to score sequences it has seen, and to sample after prompts it may have cached.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ...collect.engines.base import Generation, TokenEngine
from ...collect.types import Sampling
from ...store.errors import EngineError
from .batch import Sample

PROBE_SEQUENCES = 4
PROBE_TOKENS = 4


class LearnerLike(Protocol):
    """What weight pushing needs of a learner, local or remote."""

    def save_weights(self, path: str) -> None:
        """See Learner."""
        ...

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """See Learner."""
        ...


@contextmanager
def weights_folder() -> Iterator[Path]:
    """A folder in memory (tmpfs) where there is one, removed at the end."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="rollhouse-weights-", dir=base)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def push_weights(learner: LearnerLike, engine: TokenEngine, version: int, folder: Path) -> None:
    """Gives the engine the learner's weights as `version`."""
    path = str(folder / "weights.safetensors")
    learner.save_weights(path)
    asyncio.run(engine.load_weights(path, version))


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
