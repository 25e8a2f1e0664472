"""Environments of verifiers 0.4: programs that play their own episodes against the run's engine, as the harness `verifiers`.

The package is never imported here: its tasks are listed by `verifiers_program.py` under the Python that has it.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ...base.errors import ConfigError, one_line
from ...base.packages import require
from ...store.reading import read_messages
from ...store.task import Score, Task
from ..tools import ToolSession, tool_session

PROGRAM = Path(__file__).with_name("verifiers_program.py")
_SPLITS = ("train", "validation", "test")


class VerifiersEnvironment:
    """The tasks of an environment of the verifiers package by its id: an installed one, or a module in the current folder."""

    def __init__(
        self,
        env_id: str,
        name: str | None = None,
        python: str | None = None,
        settings: Mapping[str, Any] | None = None,
        splits: Mapping[str, Mapping[str, Any]] | None = None,
        policy: str | None = None,
        pass_at: float = 1.0,
    ) -> None:
        """Nothing is loaded yet. Raises MissingExtra without the package, ConfigError for an unknown split.

        Args:
            name: The environment of tasks and rollouts; None is its id.
            python: The interpreter that has verifiers; None is this one.
            settings: Of the environment's configuration, as under `[env]` of an eval's TOML file.
            splits: Settings of the taskset for validation and test, which have no tasks otherwise, and train.
            policy: The agent whose model is the policy; None is the first that the environment declares.
            pass_at: The least reward of a rollout that passes.
        """
        if python is None:
            require("verifiers")
        for split in splits or ():
            if split not in _SPLITS:
                raise ConfigError(f"There is no split {split!r}.", f"Splits are {', '.join(_SPLITS)}.")
        self.name = name or env_id
        self._id, self._python, self._policy = env_id, python, policy
        self._settings, self._splits = dict(settings or {}), {"train": {}, **(splits or {})}

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks of its taskset with the settings of the split, in order. Raises ConfigError for an environment that cannot be loaded."""
        if split not in self._splits:
            return
        taskset = {**(self._settings.get("taskset") or {}), **self._splits[split]}
        request = {"work": "tasks", "env_id": self._id, "settings": {**self._settings, "taskset": taskset}, "policy": self._policy}  # fmt: skip
        for row in listed(self._python, self._id, request):
            if "data" in row:
                yield self._task(row, split)

    def start(self, task: Task) -> ToolSession:
        """A session without tools: the harness plays and judges. Its verdict is that of a rollout which a limit of the run has ended."""
        return tool_session([], lambda _: Score(0.0, False, f"verifiers/{self._id}", "not judged"))

    def _task(self, row: Mapping[str, Any], split: str) -> Task:
        spoken = row["messages"] or [{"role": "user", "content": row["name"] or row["key"]}]  # the user's side opens
        return Task(
            self.name,
            tuple(read_messages(spoken)),
            ground_truth=row["data"],
            split=split,
            source_key=row["name"] or str(row["data"].get("idx")),
        )


def listed(python: str | None, env_id: str, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines that the program writes for a request. It is ended when no more are wanted. Raises ConfigError when it fails."""
    with tempfile.TemporaryFile("w+") as said:
        try:
            program = subprocess.Popen([python or sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)  # fmt: skip
        except OSError as error:
            raise ConfigError(f"{python} cannot be started: {error.strerror}.", "Set the option python to the interpreter that has verifiers.") from error  # fmt: skip
        with program:
            try:
                yield from _lines(program, request)
            finally:
                unwanted = program.poll() is None
                program.kill()
        if program.returncode and not unwanted:
            raise ConfigError(f"verifiers cannot load {env_id!r}: {_last(said)}.", "Install the environment there, or run where its module is.")  # fmt: skip


def _lines(program: "subprocess.Popen[str]", request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    assert program.stdin is not None and program.stdout is not None
    try:
        json.dump(request, program.stdin)
        program.stdin.close()
    except BrokenPipeError:
        pass  # its error says why
    yield from map(json.loads, program.stdout)
    program.wait()


def _last(said: IO[str]) -> str:
    said.seek(0)
    lines = said.read().strip().splitlines()
    return one_line(lines[-1], 300) if lines else "it wrote no error"


def is_here() -> bool:
    """Whether this interpreter has the package."""
    return importlib.util.find_spec("verifiers") is not None
