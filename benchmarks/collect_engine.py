"""What the runner adds to generation: workplace-mini collected with the vLLM engine, and the same model calls straight to that engine.

    python benchmarks/collect_engine.py '{"rollouts": 256, "concurrency": 32, "rounds": 3, "model": null}'

Each round collects (tools, verdicts, chat template, store and all), then makes the recorded calls again: as many at a time, each worker's one
after the other, same prompts and seeds. (Last digits depend on what shares a step, so a few rollouts sample something else: compare seconds a
token.) The engine forgets its cached prompts before either. Prints one line of JSON.
"""

import asyncio
import json
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from rollhouse.benchmarks.collect_parts import Clock
from rollhouse.collect.runner import collect_async
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.config import PolicySettings
from rollhouse.policies.engines.base import SampledTokens
from rollhouse.policies.opening import open_policy
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.train.tiny.base import base_policy

Call = tuple[list[int], Sampling]


class Recorder:
    """A TokenEngine that passes every call on and keeps it under the worker that made it."""

    def __init__(self, engine: Any) -> None:
        self.calls: dict[Any, list[Call]] = {}
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> SampledTokens:
        """As the engine's own."""
        self.calls.setdefault(asyncio.current_task(), []).append((prompt_ids, sampling))
        return await self._engine.generate(prompt_ids, sampling)


def main(rollouts: int, concurrency: int, rounds: int, model: str | None = None) -> dict[str, Any]:
    """Wall and own CPU seconds of both, for each round; the first, which warms the engine up, is not among them."""
    folder = Path(model) if model else base_policy()
    tasks = list(islice(MiniEnvironment(seed=0).tasks("train"), rollouts))
    found: list[dict[str, Any]] = []
    with open_policy(PolicySettings(engine="vllm", model_name=str(folder))) as policy:
        assert isinstance(policy, TokenPolicy)
        engine = policy.token_engine
        for number in range(rounds + 1):
            recorder = Recorder(engine)
            policy.token_engine = recorder  # type: ignore[assignment]
            collected = asyncio.run(_collect(policy, folder, tasks, rollouts // len(tasks), concurrency))
            straight = asyncio.run(_repeat(engine, folder, list(recorder.calls.values())))
            if number:
                found.append({"collected": collected, "straight": straight})
    return {"rollouts": rollouts, "concurrency": concurrency, "model": folder.name if model else "the tiny policy (2.9 M)", "rounds": found}  # fmt: skip


async def _collect(policy: TokenPolicy, model: Path, tasks: list[Any], repeats: int, concurrency: int) -> dict[str, float]:  # fmt: skip
    await policy.token_engine.load_weights(str(model), 0)
    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        store = LanceStore.create(Path(folder) / "store")
        with start_run(store, "collect", "bench") as run:
            clock = Clock()
            summary = await collect_async(
                store, run, MiniEnvironment(seed=0), policy, tasks,
                num_repeats=repeats, sampling=Sampling(max_tokens=128, seed=0), concurrency=concurrency,
            )  # fmt: skip
            spent = clock.read()
            run.finish(summary.as_dict())
    return {**spent, "tokens": summary.as_dict()["sampled_tokens"]}


async def _repeat(engine: Any, model: Path, workers: list[list[Call]]) -> dict[str, float]:
    await engine.load_weights(str(model), 0)
    sampled = 0

    async def work(calls: list[Call]) -> None:
        nonlocal sampled
        for prompt_ids, sampling in calls:
            generation = await engine.generate(prompt_ids, sampling)
            sampled += len(generation.token_ids)

    clock = Clock()
    await asyncio.gather(*map(work, workers))
    return {**clock.read(), "tokens": sampled}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
