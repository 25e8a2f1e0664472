"""A harness's function in its own process: gets the task and a client, and its value becomes a verdict."""

import asyncio
import importlib
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ..base.errors import ConfigError, one_line
from ..base.plugins import load_plugin
from ..environments.harness import SHIPPED
from ..store.task import Score, Task
from .client import Access, HarnessClient
from .supervisor import report_value


def load_harness(name: str) -> Callable[..., Any]:
    """The function of a harness that ships, or of `module:name` and `FILE.py:name`. Raises ConfigError when there is none, or a package is missing."""
    if name in SHIPPED:
        function = importlib.import_module(f".agents.{SHIPPED[name]}", __package__).run
    else:
        function = load_plugin(name, "harness")
    if not callable(function):
        raise ConfigError(f"The harness {name!r} is not a function.", "Name a function `run(task, client)`.")
    return function


def task_json(task: Task, truth: bool = True) -> dict[str, Any]:
    """A task as a harness gets it: the columns of `tasks`, messages in OpenAI chat form.

    Args:
        truth: Whether it has ground truth and state.
    """
    names = ("environment", "task_id", "prompt_id", "split", "category", "difficulty", "source_key")
    plain: dict[str, Any] = {name: getattr(task, name) for name in names}
    plain |= {"messages": [message.to_openai() for message in task.messages], "tools": [dict(tool) for tool in task.tools], "extra": dict(task.extra)}  # fmt: skip
    return plain | ({"ground_truth": task.ground_truth, "state": task.state} if truth else {})


def task_of(plain: Mapping[str, Any]) -> Task:
    """The task of `task_json`."""
    ids = {name: plain[name] for name in ("task_id", "prompt_id")}
    task = Task(**{name: value for name, value in plain.items() if name not in ids})
    task.__dict__.update(ids)
    return task


def verdict_json(value: Any) -> dict[str, Any] | None:
    """What a harness returned as a body of `/finish`; None for None, which leaves the verdict to the environment. Raises TypeError."""
    if isinstance(value, Score):
        plain = {name: getattr(value, name) for name in ("reward", "passed", "scorer", "scorer_version")}
        return plain | {"components": [{"name": name, "value": part, "weight": weight} for name, part, weight in value.components]}  # fmt: skip
    if value is None or isinstance(value, Mapping):
        return value if value is None else dict(value)
    if isinstance(value, (bool, int, float)):
        return {"reward": float(value)}
    raise TypeError(f"the harness returned a {type(value).__name__}, not a number, a Score, a mapping or None")


async def call_harness(function: Callable[..., Any], task: Task, client: HarnessClient, options: Mapping[str, Any]) -> Any:  # fmt: skip
    """The value of `run(task, client, **options)`, sync or async; the client's connections are closed afterwards."""
    try:
        value = function(task, client, **options)
        return await value if inspect.isawaitable(value) else value
    finally:
        await client.aclose()


def play_function(request: Mapping[str, Any], descriptor: int) -> int:
    """Runs `request["harness"]` in this process and reports its value, or the error it raised, to the descriptor. Returns the exit code."""
    random.seed(request["seed"])
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed((request["seed"] or 0) % 2**32)
    code = 0
    try:
        client = HarnessClient(Access(**request["client"]))
        work = call_harness(load_harness(request["harness"]), task_of(request["task"]), client, request["options"])
        report_value(descriptor, {"verdict": verdict_json(asyncio.run(work))})
    except BaseException as error:
        traceback.print_exc()
        report_value(descriptor, {"error": error_text(error)})
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def error_text(error: BaseException) -> str:
    """The error on one line."""
    return one_line(f"{type(error).__name__}: {error}", 300)
