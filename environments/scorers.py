"""What can give a verdict on a stored rollout: an environment that replays it, or any function."""

import asyncio
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from ..base.errors import ConfigError
from ..policies.types import Turn
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.task import Score, Task
from .types import Environment

Judge = Callable[[Task | None, dict[str, Any]], Score | None]


@dataclass(frozen=True)
class Scorer:
    """A judge of stored rollouts. Picklable, as it works in several processes.

    Attributes:
        name: What its user calls it.
        environment: The environment whose rollouts it judges; None all of them.
        config_hash: Names its settings: other settings give other verdicts.
        needs_truth: Whether it can say nothing about a rollout whose task has no ground truth, or that did not end by itself or at a limit.
        judge: The verdict on a rollout (its columns without tokens) of a task (None when the store has none with a truth); None when it
            has nothing to say.
    """

    name: str
    environment: str | None
    config_hash: str
    needs_truth: bool
    judge: Judge


def open_scorer(name: str, tables: str | None = None) -> Scorer:
    """The scorer of that name: an environment's verifier, `workplace-lenient`, or `module:function`.

    Args:
        tables: Folder of the environment's tables, where it has any.

    Raises ConfigError when there is none of that name.
    """
    from .registry import load_environment, own_file

    if name == "workplace-lenient":
        return environment_scorer(load_environment("workplace", tables=tables, verifier="lenient"), name)
    if ":" in name and own_file(name) is None and name.partition(":")[0] not in ("nemo-gym", "verifiers"):
        return function_scorer(name)
    return environment_scorer(load_environment(name, tables=tables))


def environment_scorer(environment: Environment, name: str | None = None) -> Scorer:
    """Replays what the policy did in a fresh session of the environment; `name` is the scorer's, None the environment's."""
    config = hash_id(environment.name, getattr(environment, "state_hash", None))
    return Scorer(name or environment.name, environment.name, config, True, partial(_replay, environment))


def function_scorer(path: str) -> Scorer:
    """The function `module:name`, found as Python finds it, also in the current folder. Raises ConfigError when it is not there.

    It takes a Task or None and a rollout (a dictionary of columns) and returns a Score or None.
    """
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        judge: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"There is no scorer {path!r}: {error}.", "Write module:function.") from None
    if not callable(judge):
        raise ConfigError(f"{path!r} is not a function.", "Write module:function.")
    scorer: Any = judge
    return Scorer(path, None, hash_id(path), False, scorer)


def _replay(environment: Environment, task: Task | None, rollout: dict[str, Any]) -> Score | None:
    return None if task is None else asyncio.run(replay_rollout(environment, task, rollout))


async def replay_rollout(environment: Environment, task: Task, rollout: dict[str, Any]) -> Score:
    """The verdict on a stored rollout: its assistant turns, in order, in a fresh session."""
    session = await _settled(environment.start(task))
    try:
        said = [Message.from_row(row) for row in rollout["messages"] or () if row["role"] == "assistant"]
        for number, message in enumerate(said, start=1):
            cut = number == len(said) and rollout["stop_reason"] == "length"
            await session.step(Turn(message, stop_reason="length" if cut else "stop"))
        return await _settled(session.verify())
    finally:
        await _settled(session.close())


async def _settled(value: Any) -> Any:
    """The value, waited for where a session answers with an awaitable."""
    return await value if inspect.isawaitable(value) else value
