"""Weight pushes into the real engine, and that a push which did not arrive is noticed."""

import asyncio
from dataclasses import replace

import pytest
from rollhouse.collect.chat import ChatFormat
from rollhouse.collect.environments.workplace_mini import MiniEnvironment
from rollhouse.collect.types import Sampling
from rollhouse.store.errors import EngineError
from rollhouse.train.grpo.batch import Sample, split_micro_batches
from rollhouse.train.grpo.learner import Learner
from rollhouse.train.grpo.learner_settings import LearnerSettings
from rollhouse.train.grpo.sync import choose_probe, push_weights, verify_weights, weights_folder

TOLERANCE = 1e-3


@pytest.fixture
def sampled(engine, tiny_base):
    """Six single-turn samples that the engine made with the base's weights, as version 0."""
    chat = ChatFormat.of(tiny_base)
    prompts = [chat.prompt_ids(task) for task in MiniEnvironment(n_train=6).tasks("train")]

    async def sample_all():
        await engine.load_weights(str(tiny_base), 0)
        settings = Sampling(max_tokens=24, seed=1)
        return await asyncio.gather(*[engine.generate(prompt, settings) for prompt in prompts])

    return [
        Sample(f"r{i}", prompt, answer.token_ids, [1] * len(answer.token_ids), answer.logprobs, (-1.0) ** i)
        for i, (prompt, answer) in enumerate(zip(prompts, asyncio.run(sample_all()), strict=True))
    ]


def test_engine_and_learner_agree_before_and_after_a_step(engine, tiny_base, sampled):
    learner = Learner(str(tiny_base), LearnerSettings(lr=1e-3))
    probe = choose_probe(sampled)
    assert len(probe) == 4
    assert verify_weights(learner, engine, probe, 0, 1, TOLERANCE) < 1e-4

    result = learner.step(sampled, split_micro_batches([sample.length for sample in sampled], 512))
    assert result.metrics["mismatch/logp_abs_diff"] < 1e-5
    with pytest.raises(EngineError, match=r"step 1 .*logprobs differ"):
        verify_weights(learner, engine, probe, 0, 1, TOLERANCE)

    with weights_folder() as folder:
        push_weights(learner, engine, 1, folder)
        assert verify_weights(learner, engine, probe, 1, 1, TOLERANCE) < 1e-4
        with pytest.raises(EngineError, match=r"step 2 .*samples as version 1"):
            verify_weights(learner, engine, probe, 2, 2, TOLERANCE)
    assert not folder.exists()


def test_a_probe_is_the_shortest_sequences_and_may_be_empty(engine, tiny_base, sampled):
    longer = [replace(sample, prompt_ids=[*sample.prompt_ids] * 2) for sample in sampled]
    assert set(sample.rollout_id for sample in choose_probe(longer + sampled[:4])) == {"r0", "r1", "r2", "r3"}
    assert verify_weights(Learner(str(tiny_base), LearnerSettings()), engine, [], 0, 1, TOLERANCE) == 0
