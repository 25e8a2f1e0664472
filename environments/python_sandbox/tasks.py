"""The tasks of python-sandbox: generated from a seed, or read from a file."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...base.errors import ConfigError, FormatError, one_line
from ...store.messages import Message
from ...store.task import Task
from ..math.draw import MathDraw
from .problems import KINDS, CodeProblem

NAME = "python-sandbox"
SPLITS = ("train", "validation", "test")
_SYSTEM = "You are a programmer. Work with the tools in the working folder; hidden tests check the files at the end."
_SHARES = (("test", 0.15), ("validation", 0.3), ("train", 1.0))
_TRIES_A_TASK = 200


class CodeTest(BaseModel):
    """A test of a tasks file: a function, or a command, its inputs and what they give."""

    model_config = ConfigDict(extra="forbid")

    function: str | None = None
    path: str | None = None
    command: list[str] | None = None
    inputs: list[Any] = Field(min_length=1)
    expected: list[Any]

    @model_validator(mode="after")
    def _one_of_both(self) -> "CodeTest":
        if (self.command is None) == (self.function is None) or (self.function is None) != (self.path is None):
            raise ValueError("a test has function and path, or command")
        if len(self.inputs) != len(self.expected):
            raise ValueError(f"a test has {len(self.inputs)} inputs and {len(self.expected)} expected values")
        if self.command is not None and not all(isinstance(one, str) for one in (*self.inputs, *self.expected)):
            raise ValueError("inputs and expected values of a command are texts")
        if self.function is not None and not all(isinstance(one, list) for one in self.inputs):
            raise ValueError("the inputs of a function are lists of arguments")
        return self


class CodeTaskRow(BaseModel):
    """A line of a tasks file."""

    model_config = ConfigDict(extra="forbid")

    request: str
    files: dict[str, str] = Field(default_factory=dict)
    tests: list[CodeTest] = Field(min_length=1)
    solution: list[dict[str, Any]] | None = None
    category: str | None = None
    split: str | None = None


def generate_tasks(seed: int, split: str, count: int, tools: Sequence[Mapping[str, Any]]) -> Iterator[Task]:
    """`count` tasks, the kinds in turn. A problem's own content decides its split, so that splits of all seeds have no problem in common."""
    draw = MathDraw(int.from_bytes(hashlib.sha256(f"{NAME} {seed} {split}".encode()).digest()[:8], "big"))
    kinds, seen, made = cycle(KINDS.items()), set[str](), 0
    for _ in range(count * _TRIES_A_TASK):
        if made == count:
            return
        kind, make = next(kinds)
        problem = make(draw)
        while _split_of(problem) != split:
            problem = make(draw)
        if problem.right + problem.path in seen:
            continue
        seen.add(problem.right + problem.path)
        made += 1
        yield _task(problem, kind, split, f"{seed}-{split}-{made}", tools)


def read_code_tasks(path: str | Path, default_split: str, tools: Sequence[Mapping[str, Any]]) -> Iterator[Task]:
    """The tasks of a JSONL file. Raises ConfigError for a file that cannot be read, FormatError with the line for a bad row."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The tasks file {path} cannot be read: {one_line(error)}.", "Name a file of JSON lines.") from error  # fmt: skip
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = CodeTaskRow.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the line"
            raise FormatError(f"{path}, line {number}: {place}: {one_line(first['msg'])}.", "See docs/environments.md.") from None  # fmt: skip
        refuse_other_split(row.split or default_split)
        tests = [test.model_dump(exclude_none=True) for test in row.tests]
        yield Task(
            NAME, (Message("system", _SYSTEM), Message("user", row.request)), tuple(tools), ground_truth=row.solution,
            state={"files": row.files, "tests": tests}, split=row.split or default_split, category=row.category, source_key=str(number),
        )  # fmt: skip


def refuse_other_split(split: str) -> None:
    """Raises ConfigError for a split that there is not."""
    if split not in SPLITS:
        raise ConfigError(f"{NAME} has no split {split!r}.", "Use train, validation or test.")


def _split_of(problem: CodeProblem) -> str:
    place = int.from_bytes(hashlib.sha256(problem.right.encode()).digest()[:4], "big") / 2**32
    return next(split for split, end in _SHARES if place < end)


def _task(problem: CodeProblem, kind: str, split: str, key: str, tools: Sequence[Mapping[str, Any]]) -> Task:
    calls: list[tuple[str, dict[str, str]]] = [("write_file", {"path": problem.path, "content": problem.right})]
    files = {}
    if problem.broken is not None:
        files[problem.path] = problem.broken
        calls.insert(0, ("read_file", {"path": problem.path}))
    test: dict[str, Any] = {"function": problem.function, "path": problem.path} if problem.function else {"command": ["python", problem.path]}  # fmt: skip
    test |= {"inputs": list(problem.inputs), "expected": list(problem.expected)}
    return Task(
        NAME, (Message("system", _SYSTEM), Message("user", problem.request)), tuple(tools),
        ground_truth=[{"name": name, "arguments": json.dumps(arguments)} for name, arguments in calls],
        state={"files": files, "tests": [test]}, split=split, category=kind, source_key=key,
    )  # fmt: skip
