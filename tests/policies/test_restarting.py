"""An engine that dies is replaced: it gets the last weights, and requests in flight are sent again."""

import asyncio
import os
import pickle
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.policies.engines.base import EngineGone, SampledTokens, TokenEngine
from rollhouse.policies.engines.replicas import ReplicatedEngine
from rollhouse.policies.engines.restarting import RestartingEngine, new_weights, restarting_vllm, restarts
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.types import Sampling
from rollhouse.store.messages import VersionSpan

from ..random_model import reference_logprobs


def restarting(folder: Path, max_restarts: int = 3) -> RestartingEngine:
    return RestartingEngine(lambda: TorchEngine(folder, max_model_len=512), max_restarts)


def check(folder: Path, prompt: list[int], generation: SampledTokens, version: int) -> None:
    expected = reference_logprobs(folder, prompt + generation.token_ids)[len(prompt) :]
    assert generation.logprobs == pytest.approx(expected, abs=1e-4)
    assert generation.version_spans == (VersionSpan(0, version),)


async def ask_and_end(engine: TokenEngine, ends: Any, n: int = 6) -> tuple[list[SampledTokens], list[float]]:
    """Long requests and a score; `ends` is called while they are in flight."""
    requests = [asyncio.ensure_future(engine.generate([5, 6, i], Sampling(max_tokens=400, seed=i))) for i in range(n)]
    score_requests = asyncio.ensure_future(engine.score([5, 6, 7]))
    await asyncio.sleep(0.01)
    assert not all(one.done() for one in requests)
    ends()
    return list(await asyncio.gather(*requests)), await score_requests


def test_an_engine_that_ends_is_replaced_with_the_last_weights(random_models: tuple[Path, Path]) -> None:
    first, second = random_models
    engine = restarting(first)
    for version, folder in ((0, first), (4, second)):
        if version:
            asyncio.run(engine.load_weights(str(folder / "model.safetensors"), version))
        generations, scores = asyncio.run(ask_and_end(engine, engine.engine.close))
        for i, generation in enumerate(generations):
            check(folder, [5, 6, i], generation, version)
        assert scores == pytest.approx(reference_logprobs(folder, [5, 6, 7]), abs=1e-4)
        assert engine.version == engine.engine.version == version
    assert (engine.restarts, restarts(engine), restarts(ReplicatedEngine([engine, engine]))) == (2, 2, 4)
    assert engine.last_failure is not None and "closed" in engine.last_failure


def test_weights_that_arrive_while_the_engine_is_dead_are_the_new_ones(random_models: tuple[Path, Path]) -> None:
    first, second = random_models
    engine = restarting(first)
    engine.engine.close()
    asyncio.run(engine.load_weights(str(second), 7))
    assert (engine.restarts, engine.version) == (1, 7)
    check(second, [5], asyncio.run(engine.generate([5], Sampling(max_tokens=9, seed=1))), 7)
    with pytest.raises(ConfigError, match="no weights"):
        asyncio.run(engine.load_weights("/nowhere.safetensors", 8))
    engine.engine.close()
    check(second, [5], asyncio.run(engine.generate([5], Sampling(max_tokens=9, seed=1))), 7)


def test_restarts_end_at_their_limit(random_models: tuple[Path, Path]) -> None:
    engine = restarting(random_models[0], max_restarts=1)
    for match in (None, "started 1 times in place of one that died"):
        engine.engine.close()
        if match is None:
            assert len(asyncio.run(engine.score([5, 6]))) == 2
        else:
            with pytest.raises(EngineGone, match=match):
                asyncio.run(engine.score([5, 6]))
    never = restarting(random_models[0], max_restarts=0)
    never.engine.close()
    with pytest.raises(EngineGone, match="was closed"):
        asyncio.run(never.score([5, 6]))


def test_one_that_cannot_be_started_counts_against_the_limit(random_models: tuple[Path, Path]) -> None:
    engines = [TorchEngine(random_models[0], 512)]

    def open_none() -> TokenEngine:
        raise EngineError("There is no CPU for the engine.", "End something.")

    engine = RestartingEngine(open_none, 2, engines[0])
    engines[0].close()
    with pytest.raises(EngineGone, match=r"started 2 times .*no CPU"):
        asyncio.run(engine.score([5, 6]))
    closed = restarting(random_models[0])
    closed.close()
    with pytest.raises(EngineGone, match="was closed"):
        asyncio.run(closed.score([5, 6]))
    assert closed.restarts == 0


def test_a_restart_waits_for_the_file_that_is_written_and_refuses_half_of_one(
    random_models: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = random_models
    file = tmp_path / "weights.safetensors"
    engine = restarting(first)
    shutil.copy(first / "model.safetensors", file)
    asyncio.run(engine.load_weights(str(file), 1))
    whole = (second / "model.safetensors").read_bytes()
    answer: list[SampledTokens] = []
    prompt = [5, 6]
    asking = threading.Thread(
        target=lambda: answer.append(asyncio.run(engine.generate(prompt, Sampling(max_tokens=5, seed=1))))
    )
    with new_weights(ReplicatedEngine([engine]), str(file), 2):
        file.write_bytes(whole[: len(whole) // 2])
        engine.engine.close()
        asking.start()
        while not engine.restarts:
            pass
        file.write_bytes(whole)
    asking.join()
    check(second, prompt, answer[0], 2)

    with pytest.raises(OSError, match="disk"), new_weights(engine, str(file), 3):
        raise OSError("disk")
    engine.engine.close()
    with pytest.raises(EngineGone, match="not written to their end"):
        asyncio.run(engine.score([5, 6]))


def in_two_threads(work: Any) -> list[Any]:
    """`work(number)` on an event loop of its own in each of two threads, at once."""
    results: list[Any] = [None, None]

    def run(number: int) -> None:
        try:
            results[number] = asyncio.run(work(number))
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


async def many(engine: TokenEngine, number: int) -> list[tuple[list[int], SampledTokens]]:
    answers = []
    for round in range(4):
        prompts = [[5, 6, number, round, i] for i in range(8)]
        wanted = [engine.generate(prompt, Sampling(max_tokens=8, seed=i)) for i, prompt in enumerate(prompts)]
        scores = asyncio.gather(*[engine.score(prompt) for prompt in prompts])
        answers += zip(prompts, await asyncio.gather(*wanted), strict=True)
        assert [len(score) for score in await scores] == [5] * 8
    return answers


def test_two_event_loops_in_two_threads_ask_one_engine(random_models: tuple[Path, Path]) -> None:
    first = random_models[0]
    engine = ReplicatedEngine([restarting(first), restarting(first)])
    for answers in in_two_threads(lambda number: many(engine, number)):
        for prompt, generation in answers:
            check(first, prompt, generation, 0)


def test_two_event_loops_in_two_threads_ask_one_vllm_engine(engine: Any, tiny_base: Path) -> None:
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    around = RestartingEngine(lambda: engine, 0)
    for answers in in_two_threads(lambda number: many(around, number)):
        assert len(answers) == 32
        for prompt, generation in answers[::7]:
            check(tiny_base, prompt, generation, 0)
    copy = pickle.loads(pickle.dumps(around))
    assert type(copy) is type(engine), "another process gets the engine itself, which it cannot restart"


@pytest.mark.system
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_killed_vllm_engine_is_started_again_and_its_requests_complete(
    ray_session: None, random_models: tuple[Path, Path], replicas: int
) -> None:
    import ray

    first, second = random_models
    engine: Any = restarting_vllm(first, 2, max_model_len=512, data_parallel_size=replicas)
    try:
        asyncio.run(engine.load_weights(str(second / "model.safetensors"), 5))
        one = engine.engines[0] if replicas == 2 else engine
        pid: Any = ray.get(one.engine.actor.ready.remote())
        generations, scores = asyncio.run(ask_and_end(engine, lambda: os.kill(pid, signal.SIGKILL), n=12))
        for i, generation in enumerate(generations):
            check(second, [5, 6, i], generation, 5)
        assert scores == pytest.approx(reference_logprobs(second, [5, 6, 7]), abs=1e-4)
        assert restarts(engine) == one.restarts == 1 and engine.version == 5
        assert "killed or crashed" in one.last_failure
        assert ray.get(one.engine.actor.ready.remote()) != pid
    finally:
        engine.close()
