"""The check that new weights arrived.

A reload can return without error and leave wrong weights, or right weights beside the old ones' key-value cache. So after every push
the engine scores sequences of the last batch, and the learner does: they must agree, or the weights are wrong. And the engine samples a few
tokens after prompts it may have cached, and scores them: it must agree with itself, or the cache is old (scoring reads none).

The learner's part is done at once, with the weights that were pushed; the engine's may wait behind what is in flight, and the learner's next
step need not wait for it.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ....base.errors import EngineError
from ....policies.engines.base import SampledTokens, TokenEngine
from ....policies.engines.restarting import restarts
from ....policies.types import Sampling
from ..learner.batch import TrainSample
from .base import LearnerLike

PROBE_SEQUENCES = 4
PROBE_TOKENS = 4


@dataclass(frozen=True)
class _Answers:
    """What the engine returned: parallel lists, one entry per probe.

    Attributes:
        scores: Of the whole sequence, from its second token on.
        sampled: A few tokens after the prompt.
        scored: The same tokens' logprobs when the engine scores them.
    """

    scores: list[list[float]]
    sampled: list[SampledTokens]
    scored: list[list[float]]


@dataclass(frozen=True)
class Verification:
    """A check in progress; `result` waits for the engine's part.

    Attributes:
        ours: The learner's logprobs, parallel to the engine's scores.
        restarts: Of the engine, before the check.
        by_mean: The tolerance is for the mean difference: in low precision single logprobs of the right weights differ by a tenth and more.
    """

    engine: TokenEngine
    version: int
    step: int
    tolerance: float
    ours: list[list[float]]
    answers: "Future[_Answers]"
    restarts: int = 0
    by_mean: bool = False

    def result(self) -> float | None:
        """The largest difference of a logprob, at temperature 1; 0 for an empty probe.

        None when there is one and an engine was started again meanwhile: it may have the weights of the learner's next step, and the push after that
        is checked again. Raises EngineError naming the step when it is above the tolerance or the engine reports another version, and what the engine raises.
        """
        answers = self.answers.result()
        pairs = list(zip(answers.scores, self.ours, strict=True))
        pairs += [(one.logprobs, scored) for one, scored in zip(answers.sampled, answers.scored, strict=True)]
        # max() would pass over a NaN.
        gaps = [abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True)]
        worst = max(gaps, default=0.0) if all(gap == gap for gap in gaps) else float("nan")
        judged = sum(gaps) / max(len(gaps), 1) if self.by_mean else worst
        claimed = {span.version for answer in answers.sampled for span in answer.version_spans} - {self.version}
        if claimed or not judged <= self.tolerance:
            if restarts(self.engine) > self.restarts:
                return None
            differ = f"{judged:.3g} in the mean" if self.by_mean else f"up to {worst:.3g}"
            found = f"it samples as version {claimed.pop()}" if claimed else f"logprobs differ by {differ}"
            raise EngineError(
                f"After the weight push of step {self.step} (version {self.version}) engine and learner weights differ: {found}.",
                "No weights of a later step were saved. On a GPU or in bfloat16 raise policy.generation.sync_tolerance; otherwise report a bug.",
            )
        return worst


def choose_probe(samples: Sequence[TrainSample]) -> list[TrainSample]:
    """The sequences of a batch to compare on: the shortest, for speed."""
    return sorted(samples, key=lambda sample: (sample.length, sample.rollout_id))[:PROBE_SEQUENCES]


def begin_verification(
    learner: LearnerLike,
    engine: TokenEngine,
    probe: Sequence[TrainSample],
    version: int,
    step: int,
    tolerance: float,
    by_mean: bool = False,
) -> Verification:
    """Compares engine and learner on the probe: the learner scores now, the engine on a thread. `result` must be called before the next push.

    Of several engines each scores its share of the probe, and one sequence at least.
    """
    engines, before = getattr(engine, "engines", (engine,)), restarts(engine)
    probe = [probe[i % len(probe)] for i in range(max(len(probe), len(engines)))] if probe else []
    chosen = [engines[i % len(engines)] for i in range(len(probe))]
    # A rollout that filled the context ends in a tool result that the engine has no room for.
    whole = [[*sample.prompt_ids, *sample.token_ids][: engine.max_model_len - 1] for sample in probe]
    # One after the other: where both have all cores, side by side they take longer.
    ours = learner.logprobs([(ids[:1], ids[1:]) for ids in whole])
    thread = ThreadPoolExecutor(1, "rollhouse-verify")
    answers = thread.submit(lambda: asyncio.run(_score(chosen, probe, whole)))
    thread.shutdown(wait=False)
    return Verification(engine, version, step, tolerance, ours, answers, before, by_mean)


async def _score(engines: Sequence[TokenEngine], probe: Sequence[TrainSample], whole: Sequence[list[int]]) -> _Answers:
    """All three are parallel."""
    sampling = Sampling(temperature=1.0, max_tokens=PROBE_TOKENS, seed=0)

    async def sample_and_score(engine: TokenEngine, prompt_ids: list[int]) -> tuple[SampledTokens, list[float]]:
        answer = await engine.generate(prompt_ids, sampling)
        room = engine.max_model_len - 1 - len(prompt_ids)  # scoring takes one token more
        scores = await engine.score([*prompt_ids, *answer.token_ids[:room]])
        return answer, scores[len(prompt_ids) :] + answer.logprobs[room:]

    wanted = [engine.score(token_ids) for engine, token_ids in zip(engines, whole, strict=True)]
    sampled = [sample_and_score(engine, list(sample.prompt_ids)) for engine, sample in zip(engines, probe, strict=True)]
    # One gather around both: where an engine ends, asyncio warns of no exception that nobody awaited.
    scores, answers = await asyncio.gather(asyncio.gather(*wanted), asyncio.gather(*sampled))
    return _Answers([one[1:] for one in scores], [a for a, _ in answers], [s for _, s in answers])
