"""workplace-mini as an environment: tasks, sessions, and the verdict by final state."""

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

from ...base.errors import ConfigError
from ...store.messages import ToolCall
from ...store.task import Score, Task
from ..tools import ToolOutput, ToolSession
from .office import State, ToolError, call_tool
from .tasks import NAME, generate_tasks

SCORER, SCORER_VERSION = "workplace-mini/final-state", "1"


class MiniEnvironment:
    """The frozen small office. Its tasks depend on the seed and the split's size alone.

    Splits of different seeds are disjoint too: a request's own hash decides its split.
    """

    name = NAME

    def __init__(self, seed: int = 0, n_train: int = 400, n_validation: int = 120, n_test: int = 120) -> None:
        self._seed = seed
        self._sizes = {"train": n_train, "validation": n_validation, "test": n_test}

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of `train`, `validation` or `test`, the nine kinds in turn. Raises ConfigError for another split."""
        if split not in self._sizes:
            raise ConfigError(f"{NAME} has no split {split!r}.", "Use train, validation or test.")
        return list(generate_tasks(self._seed, split, self._sizes[split]))

    def start(self, task: Task) -> ToolSession:
        """A fresh session. It needs only the task's state, so tasks read from a store start too."""
        state: State = copy.deepcopy(task.state)

        def execute(name: str, arguments: Any) -> ToolOutput:
            return run_tool(state, name, arguments)

        def score(calls: Sequence[ToolCall]) -> Score:
            passed = state == final_state(task.state, task.ground_truth)
            return Score(float(passed), passed, SCORER, SCORER_VERSION)

        return ToolSession(execute, score)


def run_tool(state: State, name: str, arguments: Any) -> ToolOutput:
    """One call on the state, changed in place. The policy sees a text: JSON for rows, `Error: …` for a refusal."""
    try:
        result = call_tool(state, name, arguments)
    except ToolError as error:
        return ToolOutput(f"Error: {error}", failed=True)
    return ToolOutput(result if isinstance(result, str) else json.dumps(result))


def final_state(state: State, ground_truth: Sequence[dict[str, Any]]) -> State:
    """The state after the calls of a ground truth, on a copy."""
    state = copy.deepcopy(state)
    for call in ground_truth:
        run_tool(state, call["name"], json.loads(call["arguments"]))
    return state
