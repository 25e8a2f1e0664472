"""Workplace as an environment: tasks from a file, sessions over shared tables, the verdict by final state."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from functools import cached_property
from pathlib import Path

from ....store.errors import ConfigError
from ....store.ids import hash_id
from ....store.messages import ToolCall
from ...tasks_file import load_tasks
from ...tools import ToolSession
from ...types import Score, Task
from .office import Office, read_office
from .toolbox import call_tool
from .verifier import replay, same_state, truth_calls

NAME = "workplace"
SCORER, SCORER_VERSION = "workplace", "1"


class WorkplaceEnvironment:
    """27 tools over six tables; a task is solved when the tables end as its ground truth's calls leave them.

    Attributes:
        office: The tables as every session finds them.
    """

    name = NAME

    def __init__(self, tables: Path | str | None, tasks: Path | str | None = None, tasks_split: str = "train") -> None:
        """Reads the tables (a folder of six CSV files).

        Args:
            tasks: A JSONL file, needed only to list tasks.
            tasks_split: The split of its rows that name none.
        """
        if tables is None:
            raise ConfigError("The workplace environment needs its tables.", "Name their folder with --tables DIR.")
        self.office = read_office(Path(tables))
        self._tasks_file = tasks
        self._tasks_split = tasks_split
        self._truths: dict[str, Office] = {}

    @cached_property
    def state_hash(self) -> str:
        """Names the tables' content: verdicts over other tables are other verdicts."""
        return hash_id(repr(astuple(self.office)))

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of the file that are of the split, in its order."""
        if self._tasks_file is None:
            raise ConfigError("The workplace environment has no tasks file.", "Name one with --tasks FILE.")
        return [task for task in load_tasks(self._tasks_file, NAME, self._tasks_split) if task.split == split]

    def start(self, task: Task) -> ToolSession:
        """A fresh session: its office shares the tables until a tool writes."""
        office = self.office.copy()
        return ToolSession(
            lambda name, arguments: call_tool(office, name, arguments),
            lambda calls: self.score(task, calls),
        )

    def score(self, task: Task, calls: Sequence[ToolCall]) -> Score:
        """The verdict on calls, replayed on fresh tables: 1.0 or 0.0."""
        state = replay(self.office, ((call.name, call.arguments) for call in calls))
        passed = same_state(state, self._truth(task))
        return Score(float(passed), passed, SCORER, SCORER_VERSION)

    def _truth(self, task: Task) -> Office:
        calls = truth_calls(task.ground_truth)
        key = repr(calls)
        if key not in self._truths:
            self._truths[key] = replay(self.office, calls)
        return self._truths[key]
