"""Scorers of stored rollouts: an environment that replays them, or a user's function."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..base.errors import ConfigError
from ..base.event_loop import run_blocking
from ..base.plugins import FORMS, load_plugin, parse_plugin, plugin_hash
from ..policies.types import Turn
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.task import Score, Task
from .types import Environment

ScoreFunction = Callable[[Task | None, dict[str, Any]], Score | None]


@dataclass(frozen=True)
class Scorer:
    """A judge of stored rollouts. Picklable, for use in several processes.

    Attributes:
        name: As the user wrote it.
        environment: The environment whose rollouts it judges; None is all of them.
        config_hash: Hash of its settings, stored with each verdict.
        needs_truth: Whether it requires a ground truth and a rollout that did not fail.
        judge: Takes a task (None when the store has none with a ground truth) and a rollout's columns without tokens; returns the verdict,
            or None when it gives none.
    """

    name: str
    environment: str | None
    config_hash: str
    needs_truth: bool
    judge: ScoreFunction


def open_scorer(name: str, tables: str | None = None) -> Scorer:
    """The scorer of that name: an environment's verifier, `workplace-lenient`, `math-strict`, or a plug-in: a function or an environment class.

    Args:
        tables: Folder of the environment's tables, where it has any.

    Raises ConfigError when there is none of that name.
    """
    from .registry import is_user_environment, load_environment

    if name == "workplace-lenient":
        return environment_scorer(load_environment("workplace", tables=tables, verifier="lenient"), name)
    if name == "math-strict":
        return environment_scorer(load_environment("math", rule="strict"), name)
    parsed = parse_plugin(name)
    if is_user_environment(name) and parsed and parsed.name and not inspect.isclass(load_plugin(name, "scorer")):
        return function_scorer(name)
    return environment_scorer(load_environment(name, tables=tables))


def environment_scorer(environment: Environment, name: str | None = None) -> Scorer:
    """Replays the policy's turns in a fresh session of the environment; `name` is the scorer's, None the environment's."""
    config = hash_id(environment.name, getattr(environment, "state_hash", None))
    return Scorer(name or environment.name, environment.name, config, True, partial(_replay, environment))


def function_scorer(spec: str) -> Scorer:
    """The function that `module:name` or `FILE.py:name` names. Raises ConfigError when it cannot be loaded.

    It takes a Task (None when the store has none with a ground truth) and a rollout (a dictionary of columns), and returns a Score or None.
    """
    judge: Any = load_plugin(spec, "scorer")
    if not callable(judge) or inspect.isclass(judge):
        raise ConfigError(f"The scorer {spec!r} is not a function.", f"Name a function as {FORMS}.")
    parsed = parse_plugin(spec)
    assert parsed is not None
    if parsed.file is None:
        function: Any = judge
        return Scorer(spec, None, hash_id(spec), False, function)
    return Scorer(spec, None, hash_id(parsed.name, plugin_hash(spec)), False, _FileFunction(str(parsed.file.resolve()), parsed.name or ""))  # fmt: skip


class _FileFunction:
    """A function of a file, which other processes load again: pickle cannot find the file's module."""

    def __init__(self, file: str, name: str) -> None:
        self._place = file, name
        self._function = load_plugin(f"{file}:{name}", "scorer")

    def __call__(self, task: Task | None, rollout: dict[str, Any]) -> Score | None:
        return self._function(task, rollout)

    def __reduce__(self) -> Any:
        return _FileFunction, self._place


def _replay(environment: Environment, task: Task | None, rollout: dict[str, Any]) -> Score | None:
    return None if task is None else run_blocking(replay_rollout(environment, task, rollout))


async def replay_rollout(environment: Environment, task: Task, rollout: dict[str, Any]) -> Score:
    """The verdict on a stored rollout: its assistant turns, in order, in a fresh session."""
    session = await _settled(environment.start(task))
    try:
        turns = [Message.from_row(row) for row in rollout["messages"] or () if row["role"] == "assistant"]
        for number, message in enumerate(turns, start=1):
            cut = number == len(turns) and rollout["stop_reason"] == "length"
            await session.step(Turn(message, stop_reason="length" if cut else "stop"))
        return await _settled(session.verify())
    finally:
        await _settled(session.close())


async def _settled(value: Any) -> Any:
    """The value, waited for where a session answers with an awaitable."""
    return await value if inspect.isawaitable(value) else value
