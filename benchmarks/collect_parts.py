"""The measurements of benchmarks/collect.py, each in a process of its own so that its peak memory is its own.

    python benchmarks/collect_parts.py PART ARGUMENTS-AS-JSON

Prints what it measured as one line of JSON.
"""

import asyncio
import json
import resource
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rollhouse.benchmarks.collect_server import CALL
from rollhouse.collect.runner import collect
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.policies.config import EndpointSettings
from rollhouse.policies.endpoint import OpenAIPolicy
from rollhouse.policies.endpoint.policy import RequestEncoder
from rollhouse.policies.types import Conversation, Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.reading import read_message
from rollhouse.store.runs import start_run
from rollhouse.store.task import Task


def bare(url: str, tables: str, tasks: str, rollouts: int, concurrency: int, model: str) -> dict[str, Any]:
    """A client that only sends: the two requests of a rollout, encoded before, over as many connections as the runner has."""
    environment = WorkplaceEnvironment(tables, tasks)
    pairs = [requests_of(task, model) for task in islice(environment.tasks("train"), rollouts)]
    clock = Clock()
    asyncio.run(_send(url, list(islice(cycle(pairs), rollouts)), concurrency))
    return {"rollouts": rollouts, **clock.read()}


def requests_of(task: Task, model: str) -> tuple[bytes, bytes]:
    """The runner's requests for one rollout of the task."""
    encoder, conversation = RequestEncoder(model, {}), Conversation(task)
    first = encoder.body(conversation, Sampling())
    conversation.messages += [read_message({"role": "assistant", "content": None, "tool_calls": [CALL]}),
                              Message("tool", '{"output":"00000300"}', tool_call_id="call_0")]  # fmt: skip
    return first, encoder.body(conversation, Sampling())


async def _send(url: str, pairs: list[tuple[bytes, bytes]], concurrency: int) -> None:
    import aiohttp

    waiting = iter(pairs)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def work() -> None:
            for pair in waiting:
                for body in pair:
                    async with session.post(f"{url}/v1/chat/completions", data=body) as answer:
                        await answer.read()

        await asyncio.gather(*[work() for _ in range(min(concurrency, len(pairs)))])


def runner(url: str, tables: str, tasks: str, rollouts: int, concurrency: int) -> dict[str, Any]:
    """The runner with environment, tools, verifier, writer and store. Planning is in the time; imports and reading the tasks are not."""
    environment = WorkplaceEnvironment(tables, tasks)
    listed = tasks_for(rollouts, list(environment.tasks("train")))
    policy = OpenAIPolicy(url, settings=EndpointSettings(concurrency=concurrency))
    before = _peak_mb()
    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        store = LanceStore.create(Path(folder) / "store")
        clock = Clock()
        with start_run(store, "collect", "bench") as run:
            summary = collect(
                store, run, environment, policy, listed, num_repeats=rollouts // len(listed), concurrency=concurrency
            )
            run.finish(summary.as_dict())
        spent = clock.read()
        table = store.read("rollouts", columns=["status", "n_tool_calls", "n_retries"])
    return {
        "rollouts": table.num_rows,
        **spent,
        "tasks": len(listed),
        "statuses": dict(summary.statuses),
        "verdicts": summary.as_dict()["pass_rate"] is not None,
        "tool_calls": sum(table["n_tool_calls"].to_pylist()),
        "retries": sum(table["n_retries"].to_pylist()),
        "peak_mb_before": before,
        "peak_mb": _peak_mb(),
    }


def tasks_for(rollouts: int, tasks: list[Task]) -> list[Task]:
    """The largest number of tasks that divides the number of rollouts."""
    return tasks[: max(n for n in range(1, min(rollouts, len(tasks)) + 1) if rollouts % n == 0)]


class Clock:
    """Seconds since it was made: of the wall, and of this process's CPU time, which others on the machine change less."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both, as a part reports them."""
        return {"seconds": time.perf_counter() - self._start[0], "cpu_seconds": time.process_time() - self._start[1]}


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


PARTS = {"bare": bare, "runner": runner}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](**json.loads(sys.argv[2]))))
