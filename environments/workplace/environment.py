"""Workplace as an environment: tasks from a file, sessions over shared tables, the verdict by final state."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError
from ...base.threads import in_thread
from ...store.ids import hash_id
from ...store.messages import ToolCall
from ...store.task import Score, Task
from ...store.tool_schemas import read_tools
from ..tasks_file import load_tasks, task_from_row
from ..tools import ToolSession
from .generator.tasks import generate_tasks
from .lenient import SCORER as LENIENT_SCORER
from .lenient import SCORER_VERSION as LENIENT_VERSION
from .lenient import same_work
from .office import Office, read_office
from .patterns import may_wait
from .schemas import tool_schemas
from .toolbox import TOOLS, call_tool
from .verifier import replay, same_state, truth_calls

NAME = "workplace"
SCORER, SCORER_VERSION = "workplace", "1"

VERIFIERS = {
    "strict": (same_state, SCORER, SCORER_VERSION),
    "lenient": (same_work, LENIENT_SCORER, LENIENT_VERSION),
    "both": (same_state, SCORER, SCORER_VERSION),
}
"""Name to whether two offices count as the same, and what the verdict is signed with."""

_TRUTHS_KEPT = 1_000


class WorkplaceEnvironment:
    """27 tools over six tables; a task is solved when the tables end as its ground truth's calls leave them.

    Attributes:
        office: The tables at the start of every session.
    """

    name = NAME

    def __init__(
        self,
        tables: Path | str | None,
        tasks: Path | str | None = None,
        tasks_split: str = "train",
        verifier: str = "strict",
        seed: int = 0,
        n_train: int = 2_000,
        n_validation: int = 200,
        n_test: int = 200,
    ) -> None:
        """Reads the tables (a folder of six CSV files).

        Args:
            tasks: A JSONL file of tasks; None generates them from the tables.
            tasks_split: The split of its rows that name none.
            verifier: `strict` (NeMo Gym's verdict), `lenient` (see lenient.py), or `both`: the strict one, with the other as its component
                `lenient` of weight 0.
            seed: Of generated tasks. Splits share no task whatever the seeds, and the first tasks of a longer list are a shorter one's.
            n_train, n_validation, n_test: How many tasks to generate of each split.
        """
        if verifier not in VERIFIERS:
            raise ConfigError(
                f"There is no verifier {verifier!r} of workplace.", f"Verifiers are {', '.join(VERIFIERS)}."
            )
        if tables is None:
            raise ConfigError("The workplace environment needs its tables.", "Name their folder with --tables DIR.")
        self.office = read_office(Path(tables))
        self._tasks_file = tasks
        self._tasks_split = tasks_split
        self._verifier = verifier
        self._seed = seed
        self._sizes = {"train": n_train, "validation": n_validation, "test": n_test}
        self._truths: dict[str, Office] = {}

    @cached_property
    def state_hash(self) -> str:
        """Hash of the tables' content, which distinguishes verdicts over other tables."""
        tables = (getattr(self.office, field.name) for field in fields(self.office))
        return hash_id(repr(tuple((table.columns, table.rows, table.labels) for table in tables)))

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks of the file that are of the split, in its order; or generated ones, made on demand."""
        if self._tasks_file is None:
            rows = generate_tasks(self.office, self._sizes.get(split, 0), self._seed, [split])
            made = (task_from_row(row, NAME) for row in rows)
            # One object for all: tools are tens of kilobytes, and what is made of them is kept with them.
            tools = tuple(read_tools(tool_schemas()))
            return (replace(task, tools=tools) for task in made)
        return (task for task in load_tasks(self._tasks_file, NAME, self._tasks_split) if task.split == split)

    def start(self, task: Task) -> ToolSession:
        """A fresh session: its office shares the tables until a tool writes."""
        office = self.office.copy()

        def execute(name: str, arguments: Any) -> Any:
            # A pattern that needs a worker process delays this session, not the event loop.
            if name in TOOLS and TOOLS[name].takes_patterns and isinstance(arguments, dict) and may_wait(arguments):
                return in_thread(call_tool, office, name, arguments)
            return call_tool(office, name, arguments)

        return ToolSession(execute, lambda calls: self.score(task, calls))

    def score(self, task: Task, calls: Sequence[ToolCall]) -> Score:
        """The verdict on calls, replayed on fresh tables: 1.0 or 0.0."""
        state = replay(self.office, ((call.name, call.arguments) for call in calls))
        truth = self._truth(task)
        same, scorer, version = VERIFIERS[self._verifier]
        passed = same(state, truth)
        also = (("lenient", float(same_work(state, truth)), 0.0),) if self._verifier == "both" else ()
        return Score(float(passed), passed, scorer, version, also)

    def _truth(self, task: Task) -> Office:
        calls = truth_calls(task.ground_truth)
        key = repr(calls)
        if key not in self._truths:
            # Repeats of a task are close together, so a small cache of truths suffices.
            while len(self._truths) >= _TRUTHS_KEPT:
                self._truths.pop(next(iter(self._truths)), None)
            self._truths[key] = replay(self.office, calls)
        return self._truths[key]
