"""One server over the tiny policy, and a task to ask it about."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.models import weights_hash
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.task import Task
from rollhouse.tests.serve.running import Server, Watched, serving


@pytest.fixture(scope="session")
def torch_policy(tiny_base: Path) -> TokenPolicy:
    """The tiny policy behind a torch engine whose calls are remembered."""
    engine: Any = Watched(TorchEngine(tiny_base, 1024))
    return TokenPolicy(engine, ChatFormat.of(tiny_base), weights_hash(tiny_base))


@pytest.fixture(scope="module")
def server(torch_policy: TokenPolicy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that only differ in what they ask."""
    with serving(LanceStore.create(tmp_path_factory.mktemp("served") / "store"), torch_policy) as running:
        yield running


@pytest.fixture(scope="session")
def task() -> Task:
    """A task of the small office that the tiny policy uses tools for."""
    return next(task for task in MiniEnvironment().tasks("train") if task.category == "move_event")


@pytest.fixture(scope="session")
def request_of(task: Task) -> Callable[..., dict[str, Any]]:
    """A chat request for the task."""

    def make(**more: Any) -> dict[str, Any]:
        messages = [message.to_openai() for message in task.messages]
        request = {"model": "tiny", "messages": messages, "tools": [dict(tool) for tool in task.tools]}
        return {**request, "temperature": 0, "max_tokens": 200, **more}

    return make
