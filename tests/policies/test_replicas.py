"""Several engines behind one handle, and one engine over several processes."""

import asyncio
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.policies.config import EngineSettings, PolicySettings, VllmArguments
from rollhouse.policies.engines.base import SampledTokens
from rollhouse.policies.engines.replicas import ReplicatedEngine
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.engines.vllm_actor import open_vllm
from rollhouse.policies.opening import open_policy
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.messages import VersionSpan

from ..random_model import reference_logprobs


class Counted(TorchEngine):
    """A torch engine that counts its requests."""

    requests = 0

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> SampledTokens:
        self.requests += 1
        return await super().generate(prompt_ids, sampling)


def check(folder: Path, prompt: list[int], generation: SampledTokens, version: int) -> None:
    expected = reference_logprobs(folder, prompt + generation.token_ids)[len(prompt) :]
    assert generation.logprobs == pytest.approx(expected, abs=1e-4)
    assert generation.version_spans == (VersionSpan(0, version),)


def test_requests_go_to_the_least_busy_and_weights_to_all(random_models: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = random_models
    engines = [Counted(first, 512, max_batch=2), Counted(first, 256, max_batch=2), Counted(first, 512, max_batch=2)]
    engine = ReplicatedEngine(engines)
    assert (engine.kind, engine.version, engine.max_model_len) == ("torch", 0, 256)

    async def several(number: int) -> list[SampledTokens]:
        return await asyncio.gather(
            *[engine.generate([5, 6, i], Sampling(max_tokens=6, seed=i)) for i in range(number)]
        )

    for i, generation in enumerate(asyncio.run(several(9))):
        check(first, [5, 6, i], generation, 0)
    assert [one.requests for one in engines] == [3, 3, 3]

    async def swap() -> list[SampledTokens]:
        # One engine is slower than the others: what comes later goes around it.
        long = asyncio.ensure_future(engine.generate([5, 6, 7], Sampling(2.0, max_tokens=200, seed=1)))
        await asyncio.sleep(0)
        for i in range(4):
            await engine.generate([5, 6, i], Sampling(max_tokens=1, seed=i))
        await long
        await engine.load_weights(str(second), 3)
        return await several(6)

    for i, generation in enumerate(asyncio.run(swap())):
        check(second, [5, 6, i], generation, 3)
    assert [one.requests for one in engines] == [3 + 1 + 2, 3 + 4 + 2, 3 + 2]
    assert [one.version for one in engines] == [3, 3, 3] and engine.version == 3
    assert asyncio.run(engine.score([5, 6, 7])) == pytest.approx(reference_logprobs(second, [5, 6, 7]), abs=1e-4)
    with pytest.raises(ConfigError, match="no weights"):
        asyncio.run(engine.load_weights(str(tmp_path / "none.safetensors"), 4))
    assert engine.version == 3
    engine.close()


def test_sizes_that_cannot_be_are_refused(random_models: tuple[Path, Path], tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        open_vllm(random_models[0], data_parallel_size=0)
    with pytest.raises(ConfigError, match="has no parallel sizes"), open_policy(split("torch", random_models[0])):  # fmt: skip
        pass


def test_a_model_that_cannot_be_split_is_refused(ray_session: None, tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 attention heads .* cannot be split over 2"):
        open_vllm(tiny_base, tensor_parallel_size=2)
    with pytest.raises(EngineError, match=r"99 vLLM engines: it needs|There is no CPU"):
        open_vllm(tiny_base, data_parallel_size=99)


@pytest.mark.system
def test_two_vllm_engines_answer_as_one(ray_session: None, random_models: tuple[Path, Path]) -> None:
    first, second = random_models
    with open_policy(split("vllm", first, max_total_sequence_length=256)) as policy:
        assert isinstance(policy, TokenPolicy) and isinstance(policy.token_engine, ReplicatedEngine)
        engine = pickle.loads(pickle.dumps(policy.token_engine))
        pids = {pid_of(one) for one in engine.engines}
        assert len(pids) == 2

        async def several(seeds: list[int | None]) -> list[SampledTokens]:
            return await asyncio.gather(
                *[engine.generate([5, 6], Sampling(max_tokens=30, seed=seed)) for seed in seeds]
            )

        for version, folder in ((0, first), (7, second)):
            if version:
                asyncio.run(engine.load_weights(str(folder / "model.safetensors"), version))
            # One seed, one answer, whichever engine gave it; without a seed no two are alike.
            answers = asyncio.run(several([4] * 6))
            assert len({tuple(answer.token_ids) for answer in answers}) == 1
            for answer in answers:
                check(folder, [5, 6], answer, version)
            free = asyncio.run(several([None] * 6))
            assert len({tuple(answer.token_ids) for answer in free}) == 6
        assert asyncio.run(engine.score([5, 6, 7])) == pytest.approx(reference_logprobs(second, [5, 6, 7]), abs=1e-4)
        again: Any = open_vllm(first, max_model_len=256, data_parallel_size=2)
        assert {pid_of(one) for one in again.engines} == pids, "the two that run are taken over"
    for pid in pids:
        wait_for_end(pid)


@pytest.mark.system
def test_one_vllm_engine_over_two_processes(ray_session: None, random_models: tuple[Path, Path]) -> None:
    import psutil

    first, second = random_models
    engine: Any = open_vllm(first, max_model_len=256, tensor_parallel_size=2)
    workers = [child.pid for child in psutil.Process(pid_of(engine)).children(recursive=True)]
    try:
        for version, folder in ((0, first), (1, second)):
            if version:
                asyncio.run(engine.load_weights(str(folder), version))
            generation = asyncio.run(engine.generate([5, 6], Sampling(max_tokens=20, seed=2)))
            check(folder, [5, 6], generation, version)
        assert len(workers) >= 2
    finally:
        engine.close()
    for pid in workers:
        wait_for_end(pid)


def split(engine: str, model: Path, **settings: Any) -> PolicySettings:
    """A policy of two copies."""
    generation = EngineSettings(vllm=VllmArguments(data_parallel_size=2))
    return PolicySettings(engine=engine, model_name=str(model), generation=generation, **settings)


def pid_of(engine: Any) -> int:
    import ray

    return ray.get(engine.actor.ready.remote())


def wait_for_end(pid: int) -> None:
    """Fails when the process is still there after half a minute."""
    import psutil

    if psutil.pid_exists(pid) and pid != os.getpid():
        psutil.Process(pid).wait(30)
