"""Tasks from a file in NeMo Gym's dataset row format: one JSON object a line."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import FormatError
from ..interop.nemo_gym_inputs import read_request
from ..interop.responses import flat_tools, input_items
from ..store.messages import Message
from ..store.task import Task

SPLITS = ("train", "validation", "test")
_PARAMS_KNOWN = ("input", "tools")


def load_tasks(path: str | Path, environment_name: str, split: str = "train") -> list[Task]:
    """The tasks of a file, in its order.

    Args:
        environment_name: The environment the tasks belong to, whatever the rows call it.
        split: The split of rows that name none.

    Raises FormatError naming file and line when a line is not a task.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"There is no tasks file {path}.", "Check the path given with --tasks.")
    tasks = []
    tools: dict[str, tuple[Mapping[str, Any], ...]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                task = _read_line(path, number, line, environment_name, split)
                # Most tasks of a file have the same tools, tens of kilobytes: they share them, and what is made of them. The same as JSON, that is:
                # to Python 1 and true are equal.
                tasks.append(replace(task, tools=tools.setdefault(json.dumps(task.tools), task.tools)))
    return tasks


def task_from_row(row: dict[str, Any], environment_name: str, split: str = "train") -> Task:
    """One dataset row as a task. Raises KeyError, TypeError, ValueError or AttributeError when it is not one.

    Truth and category stand at the top level or, as newer preparation scripts write them, in `verifier_metadata`. A split that is none of the three, a category
    that is not a string and a difficulty that is not a number are kept in `extra`, with every field that a Task has no place for (`agent_ref`, `id`, …).
    """
    params = row["responses_create_params"]
    nested = row.get("verifier_metadata") or {}
    held: dict[str, Any] = {}
    if row.get("split") in SPLITS:
        held["split"] = row["split"]
    if isinstance(category := row.get("category", nested.get("category")), str):
        held["category"] = category
    if isinstance(difficulty := row.get("difficulty"), int | float):
        held["difficulty"] = difficulty
    if "ground_truth" in row or "ground_truth" in nested:
        held["ground_truth"] = row.get("ground_truth", nested.get("ground_truth"))
    placed = {"responses_create_params", *held}
    extra = {key: value for key, value in row.items() if key not in placed}
    extra["responses_create_params"] = {key: value for key, value in params.items() if key not in _PARAMS_KNOWN}
    tools, prompt, _ = read_request(params)
    return Task(
        environment=environment_name,
        messages=tuple(prompt),
        tools=tuple(tools),
        ground_truth=held.get("ground_truth"),
        split=held.get("split", split),
        category=held.get("category"),
        difficulty=float(held["difficulty"]) if "difficulty" in held else None,
        source_key=None if row.get("id") is None else str(row["id"]),
        extra=extra,
    )


def row_from_task(task: Task) -> dict[str, Any]:
    """A task as a dataset row: a task that came from a row returns that row, its prompt written as items."""
    extra = dict(task.extra)
    params = extra.pop("responses_create_params", {})
    instructed = bool(params.get("instructions")) and task.messages[:1] == (Message("system", params["instructions"]),)
    params = {
        **params,
        "input": input_items(task.messages[1:] if instructed else task.messages),
        "tools": flat_tools(dict(tool) for tool in task.tools),
    }
    row = {"responses_create_params": params, **extra, "ground_truth": task.ground_truth, "split": task.split}
    if task.source_key is not None:
        row.setdefault("id", task.source_key)
    row |= {"category": task.category} if task.category is not None else {}
    return row | ({"difficulty": task.difficulty} if task.difficulty is not None else {})


def write_tasks(path: str | Path, tasks: Iterable[Task]) -> None:
    """Writes a dataset file of the tasks, which `load_tasks` reads back."""
    with Path(path).open("w", encoding="utf-8") as file:
        for task in tasks:
            file.write(json.dumps(row_from_task(task), ensure_ascii=False) + "\n")


def _read_line(path: Path, number: int, line: bytes, environment_name: str, split: str) -> Task:
    try:
        row = json.loads(line)
        # JSON can escape half a character (a lone surrogate), which no table can hold and no tokenizer can read.
        json.dumps(row, ensure_ascii=False).encode()
        return task_from_row(row, environment_name, split)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise FormatError(
            f"Line {number} of {path} is not a task: {reason}.",
            "Each line is a JSON object with responses_create_params.input; correct or remove the line.",
        ) from error
