"""Tasks from a file in NeMo Gym's dataset row format: one JSON object a line."""

import json
from pathlib import Path
from typing import Any

from ..interop.responses import chat_tools, prompt_messages
from ..store.errors import FormatError
from .types import Task

# Row fields that a Task holds itself; whatever else a row has goes to Task.extra.
_KNOWN = {"id", "responses_create_params", "ground_truth", "category", "split", "difficulty", "verifier_metadata"}
_PARAMS_KNOWN = {"input", "tools"}


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
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                tasks.append(_read_line(path, number, line, environment_name, split))
    return tasks


def task_from_row(row: dict[str, Any], environment_name: str, split: str = "train") -> Task:
    """One dataset row as a task. Raises KeyError, TypeError or ValueError when it is not one."""
    params = row["responses_create_params"]
    # Newer preparation scripts nest the truth one level down.
    nested = row.get("verifier_metadata") or {}
    extra = {key: value for key, value in row.items() if key not in _KNOWN}
    extra["responses_create_params"] = {key: value for key, value in params.items() if key not in _PARAMS_KNOWN}
    return Task(
        environment=environment_name,
        messages=tuple(prompt_messages(params["input"])),
        tools=tuple(chat_tools(params.get("tools") or [])),
        ground_truth=row.get("ground_truth", nested.get("ground_truth")),
        split=row.get("split") or split,
        category=row.get("category", nested.get("category")),
        difficulty=None if row.get("difficulty") is None else float(row["difficulty"]),
        source_key=None if row.get("id") is None else str(row["id"]),
        extra=extra,
    )


def _read_line(path: Path, number: int, line: bytes, environment_name: str, split: str) -> Task:
    try:
        row = json.loads(line)
        # JSON can escape half a character (a lone surrogate), which no table can hold and no tokenizer can read.
        json.dumps(row, ensure_ascii=False).encode()
        return task_from_row(row, environment_name, split)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise FormatError(
            f"Line {number} of {path} is not a task: {reason}.",
            "Each line is a JSON object with responses_create_params.input; correct or remove the line.",
        ) from error
