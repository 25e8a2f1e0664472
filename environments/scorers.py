"""Scorers of stored rollouts: an environment that replays them, or a user's function."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from ..base.errors import ConfigError
from ..base.event_loop import run_blocking
from ..base.plugins import FORMS, load_plugin, parse_plugin, plugin_hash
from ..policies.types import Turn
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.task import Score, Task
from .judging import JudgeError
from .rubric import GROUP_SCORER, SCORER, SCORER_VERSION, Grade, RubricSettings, grade, grade_group, rubric_score
from .types import Environment

log = logging.getLogger("rollhouse")

Verdict = Score | str | None
"""The verdict on one rollout; the reason where there is none that could be given; None where a scorer gives none."""
ScoreFunction = Callable[[Task | None, dict[str, Any]], Score | None]


@dataclass(frozen=True)
class Scorer:
    """A judge of stored rollouts. Picklable, for use in several processes.

    Attributes:
        name: As the user wrote it.
        environment: The environment whose rollouts it judges; None is all of them.
        config_hash: Hash of its settings, stored with each verdict.
        needs_truth: Whether it requires a ground truth and a rollout that did not fail.
        needs_prompt: Whether rollouts come with `prompt_messages`, and those that failed are left out.
        verdict_name: Name and version in its verdicts, where they are known before the first one.
        judge: Takes a task (None when the store has none with a ground truth) and a rollout's columns without tokens; returns the verdict,
            or None when it gives none.
        judge_many: The same of several rollouts, which a judge at an endpoint answers at once; None calls `judge` for each.
        judge_groups: Takes the task and the rollouts of each of several groups; its verdicts are parallel to the rollouts. None for a scorer that
            looks at one rollout alone.
    """

    name: str
    environment: str | None
    config_hash: str
    needs_truth: bool
    judge: ScoreFunction
    verdict_name: tuple[str, str] | None = None
    judge_many: Callable[[Sequence[tuple[Task | None, dict[str, Any]]]], list[Verdict]] | None = None
    needs_prompt: bool = False
    judge_groups: Callable[[Sequence[tuple[Task | None, list[dict[str, Any]]]]], list[list[Verdict]]] | None = None


def open_scorer(name: str, tables: str | None = None, rubric: RubricSettings | None = None) -> Scorer:
    """The scorer of that name: an environment's verifier, `workplace-lenient`, `math-strict`, or a plug-in: a function or an environment class.

    Args:
        tables: Folder of the environment's tables, where it has any.
        rubric: Settings of `rubric`, which grades each rollout, and `rubric-group`, which compares the rollouts of a group.

    Raises ConfigError when there is none of that name.
    """
    if name in (SCORER, GROUP_SCORER):
        return rubric_scorer(name, rubric)
    if rubric is not None:
        raise ConfigError(f"The scorer {name} has no rubric.", f"Name {SCORER} or {GROUP_SCORER}, or leave out rubric.")
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

    It takes a Task (None when the store has none with a ground truth) and a rollout (a dictionary of columns), and returns a Score or None. A function
    with the attribute `whole_group = True` takes the list of a group's rollouts instead, and returns a list of Scores or Nones parallel to it.
    """
    judge: Any = load_plugin(spec, "scorer")
    if not callable(judge) or inspect.isclass(judge):
        raise ConfigError(f"The scorer {spec!r} is not a function.", f"Name a function as {FORMS}.")
    parsed = parse_plugin(spec)
    assert parsed is not None
    if parsed.file is None:
        function, config = cast(ScoreFunction, judge), hash_id(spec)
    else:
        function = _FileFunction(str(parsed.file.resolve()), parsed.name or "")
        config = hash_id(parsed.name, plugin_hash(spec))
    groups = partial(_each_group, function) if getattr(judge, "whole_group", False) else None
    return Scorer(spec, None, config, False, function, judge_groups=groups)


def _each_group(function: Any, groups: Sequence[tuple[Task | None, list[dict[str, Any]]]]) -> list[list[Verdict]]:
    found: list[list[Verdict]] = []
    for task, rollouts in groups:
        try:
            verdicts = list(function(task, rollouts))
            if len(verdicts) != len(rollouts):
                raise ValueError(f"{len(verdicts)} verdicts for {len(rollouts)} rollouts")
            found.append(verdicts)
        except Exception as error:  # one odd group is not to end the scoring of the others
            found.append([f"scorer_error {type(error).__name__}"] * len(rollouts))
    return found


def rubric_scorer(name: str, rubric: RubricSettings | None) -> Scorer:
    """A judge at an endpoint. Raises ConfigError without settings."""
    if rubric is None:
        raise ConfigError(f"The scorer {name} needs a rubric.", "Write rubric: {judge: {url: …}, criteria: […]} in a recipe.")  # fmt: skip
    config = hash_id(name, rubric.identity)
    if name == SCORER:
        many = partial(_graded, rubric)
        return Scorer(
            name,
            None,
            config,
            False,
            lambda *pair: _of(many([pair])[0]),
            (name, SCORER_VERSION),
            judge_many=many,
            needs_prompt=True,
        )
    groups = partial(_graded_groups, rubric)
    return Scorer(
        name, None, config, False, lambda *pair: None, (name, SCORER_VERSION), judge_groups=groups, needs_prompt=True
    )


def _of(verdict: Verdict) -> Score | None:
    return verdict if isinstance(verdict, Score) else None


def _graded(rubric: RubricSettings, pairs: Sequence[tuple[Task | None, dict[str, Any]]]) -> list[Verdict]:
    async def one(rollout: dict[str, Any]) -> Verdict:
        prompt, attempt = _talk(rollout)
        try:
            return rubric_score(rubric, await grade(rubric, prompt, attempt))
        except JudgeError as error:
            return _failed(error)

    async def every() -> list[Verdict]:
        return await asyncio.gather(*(one(rollout) for _, rollout in pairs))

    return run_blocking(every())


def _graded_groups(rubric: RubricSettings, groups: Sequence[tuple[Task | None, list[dict[str, Any]]]]) -> list[list[Verdict]]:  # fmt: skip
    async def one(rollouts: list[dict[str, Any]]) -> list[Verdict]:
        talks = [_talk(rollout) for rollout in rollouts]
        try:
            grades = await grade_group(rubric, talks[0][0], [attempt for _, attempt in talks])
        except JudgeError as error:
            return [_failed(error)] * len(rollouts)
        return [_among(rubric, one, grades) for one in grades]

    async def every() -> list[list[Verdict]]:
        return await asyncio.gather(*(one(rollouts) for _, rollouts in groups))

    return run_blocking(every())


def _among(rubric: RubricSettings, grade: Grade, grades: Sequence[Grade]) -> Score:
    """The verdict on one attempt of a group."""
    score, rank = grade.score, 1 + sum(other.score > grade.score for other in grades)
    parts = (("score", score, 1.0), ("rank", float(rank), 0.0), ("group_size", float(len(grades)), 0.0))
    return Score(score, score >= rubric.threshold, GROUP_SCORER, SCORER_VERSION, parts, rationale=grade.why or None)


def _failed(error: JudgeError) -> str:
    log.warning("%s", error.message)
    return "judge_failed"


def _talk(rollout: dict[str, Any]) -> tuple[list[Message], list[Message]]:
    """The prompt and what followed it."""
    return list(rollout["prompt_messages"]), [Message.from_row(row) for row in rollout["messages"] or ()]


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
