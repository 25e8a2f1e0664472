"""Rows of math data sets as tasks: DAPO and verl, GSM8K, MATH, NeMo Gym, and plain questions with answers."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...store.messages import Message
from ...store.task import Task
from ..task_files import SPLIT_NAMES
from ..tasks_file import task_from_row

NAME = "math"
INSTRUCTION = r"Solve the problem. Think it through step by step, then give the final answer once, inside \boxed{}."

Row = dict[str, Any]
# A row's own messages (None: the system prompt and the question), its question, its answer, and the fields they stood in.
Read = Callable[[Row], tuple[Any, str, Any, tuple[str, ...]]]
_QUESTIONS, _ANSWERS = ("question", "problem"), ("expected_answer", "answer")
# Where sources keep what a Task has a place for, the first one that is there.
_CATEGORIES, _KEYS = ("category", "subject", "type", "data_source"), ("id", "unique_id", "uuid", "problem_id")
_LEVELS = ("difficulty", "level")  # MATH's is `Level 4`


def shape_of(row: Row) -> str:
    """The shape of a file's rows by its first one: nemo_gym, verl, gsm8k, math or plain. Raises ValueError when it is none."""
    if "responses_create_params" in row:
        return "nemo_gym"
    if "reward_model" in row and "prompt" in row:
        return "verl"
    question = next((name for name in _QUESTIONS if name in row), None)
    if question == "question" and "####" in str(row.get("answer")):
        return "gsm8k"
    if question and any(name in row for name in _ANSWERS):
        return "plain"
    if question and "solution" in row:
        return "math"
    raise ValueError(f"fields {', '.join(map(repr, row)) or 'none'} are of no known shape")


def task_of(row: Row, shape: str, split: str, system_prompt: str | None) -> Task:
    """One row as a task.

    Args:
        shape: As `shape_of` returns it.
        split: For a row that names none.
        system_prompt: Put before the question of rows without messages of their own; None for none.

    Raises KeyError, TypeError, ValueError or AttributeError when it is not a row of that shape.
    """
    if shape == "nemo_gym":
        return _nemo_gym(row, split)
    messages, question, answer, used = _READ[shape](row)
    if messages is None:
        messages = ([Message("system", system_prompt)] if system_prompt else []) + [Message("user", _text(question))]
    category, key, level = (_field(row, names) for names in (_CATEGORIES, _KEYS, _LEVELS))
    source_key = row[key] if key else (row.get("extra_info") or {}).get("index")
    difficulty = re.search(r"\d+(\.\d+)?", str(row[level])) if level else None
    named = SPLIT_NAMES.get(row["split"]) if isinstance(row.get("split"), str) else None
    placed = {
        *used,
        category,
        key,
        "split" if named else None,
        "difficulty" if difficulty and level == "difficulty" else None,
    }
    return Task(
        environment=NAME,
        messages=tuple(messages),
        tools=(),
        ground_truth=_answer(answer),
        split=named or split,
        category=str(row[category]) if category else None,
        difficulty=float(difficulty[0]) if difficulty else None,
        source_key=None if source_key is None else str(source_key),
        extra={name: value for name, value in row.items() if name not in placed},
    )


def _nemo_gym(row: Row, split: str) -> Task:
    task = task_from_row(row, NAME, split)
    nested = row.get("verifier_metadata") or {}
    answer = row.get("expected_answer", nested.get("expected_answer", task.ground_truth))
    return replace(task, ground_truth=_answer(answer))


def _verl(row: Row) -> tuple[Any, str, Any, tuple[str, ...]]:
    prompt = row["prompt"]
    messages = None if isinstance(prompt, str) else [Message(one["role"], _text(one["content"])) for one in prompt]
    if messages == []:
        raise ValueError("prompt has no messages")
    return messages, prompt, row["reward_model"]["ground_truth"], ("prompt", "reward_model")


def _gsm8k(row: Row) -> tuple[Any, str, Any, tuple[str, ...]]:
    _, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise ValueError("answer has no '####'")
    return None, row["question"], answer.strip().replace(",", ""), ("question",)


def _math(row: Row) -> tuple[Any, str, Any, tuple[str, ...]]:
    question = _first(row, _QUESTIONS)
    return None, question, last_boxed(row["solution"]), _QUESTIONS


def _plain(row: Row) -> tuple[Any, str, Any, tuple[str, ...]]:
    return None, _first(row, _QUESTIONS), _first(row, _ANSWERS), (*_QUESTIONS, *_ANSWERS)


_READ: dict[str, Read] = {"verl": _verl, "gsm8k": _gsm8k, "math": _math, "plain": _plain}


def last_boxed(text: str) -> str:
    """What the last `\\boxed{…}` (or `\\fbox{…}`, or `\\boxed 5`) of a text holds. Raises ValueError when there is none."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        raise ValueError(r"solution has no \boxed{}")
    rest = re.sub(r"^\\(boxed|fbox)\s*", "", text[start:])
    if not rest.startswith("{"):
        return re.split(r"[\s$.,]", rest, maxsplit=1)[0]
    depth = 0
    for position, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:position]
    raise ValueError(r"the last \boxed{ of the solution is not closed")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the question is {value!r}, not a text")
    return value


def _answer(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"the answer is {value!r}, neither a string nor a number")
    return str(value).strip()


def _field(row: Row, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if row.get(name) is not None), None)


def _first(row: Row, names: tuple[str, ...]) -> Any:
    name = _field(row, names)
    return None if name is None else row[name]
