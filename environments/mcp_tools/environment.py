"""mcp:COMMAND_OR_URL, the tasks of a file with the tools of an MCP server."""

import json
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError, one_line
from ...base.plugins import load_plugin
from ...store.task import Score, Task
from ..tasks_file import load_tasks
from ..tools import ToolSession
from .server import McpServer, require_mcp
from .session import mcp_schemas, mcp_session

SCORER_VERSION = "1"


class McpEnvironment:
    """Tasks of a file, played with a server's tools, one session of it an episode."""

    def __init__(
        self,
        server: str,
        tasks: str | Path | None = None,
        tasks_split: str = "train",
        *,
        name: str | None = None,
        verify: str | None = None,
        environment: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        tools: Sequence[str] = (),
        call_s: float = 60.0,
    ) -> None:
        """Nothing is started yet.

        Args:
            server: A URL of Streamable HTTP, or the command line of a server that speaks on its standard input and output.
            tasks: The tasks file.
            tasks_split: Split of rows without one.
            name: The environment of tasks and rollouts; None is `mcp`.
            verify: `FILE.py:FUNCTION` or `module:FUNCTION` of a function of task and session that returns a number or a Score; None compares with the ground truth.
            environment, headers, tools, call_s: As of `McpServer`.

        Raises ConfigError for a program that is not there and a task that nothing judges.
        """
        require_mcp()
        self.name = name or "mcp"
        over_http = server.startswith(("http://", "https://"))
        command = [] if over_http else _words(server)
        self._server = McpServer(
            command=command,
            url=server if over_http else None,
            environment=dict(environment or {}),
            headers=dict(headers or {}),
            tools=tuple(tools),
            call_s=call_s,
        )
        self._verify: Callable[..., Any] | None = None if verify is None else load_plugin(verify, "verifier")
        self._tasks = [] if tasks is None else load_tasks(tasks, self.name, tasks_split)
        for number, task in enumerate(self._tasks, start=1):
            if verify is None and not isinstance(task.ground_truth, (str, list)):
                raise ConfigError(f"Task {number} of {tasks} has neither calls nor a text as ground truth, so nothing judges it.", "Add a ground truth, or set the option verify.")  # fmt: skip

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of the file that are of the split, with the server's tools. Raises ConfigError without a file, McpServerError for a server that cannot be reached."""
        if not self._tasks:
            raise ConfigError(f"{self.name} has no tasks file.", "Name one with --tasks FILE.")
        schemas = mcp_schemas(self._server)
        return [replace(task, tools=schemas) for task in self._tasks if task.split == split]

    async def start(self, task: Task) -> ToolSession:
        """A session of the server."""
        return await mcp_session(self._server, lambda session: self._verdict(task, session))

    def _verdict(self, task: Task, session: ToolSession) -> Score:
        if self._verify is None:
            solved = _is_reached(task.ground_truth, session)
            return Score(float(solved), solved, f"{self.name}/ground-truth", SCORER_VERSION)
        found = self._verify(task, session)
        if isinstance(found, Score):
            return found
        return Score(float(found), float(found) >= 1.0, f"{self.name}/verify", SCORER_VERSION)


def _is_reached(truth: Any, session: ToolSession) -> bool:
    """Whether the last answer contains the text, or the calls were made in their order; further calls are allowed."""
    if isinstance(truth, str):
        return truth.strip() in session.answer
    made = iter([_call(call.name, call.arguments) for call in session.calls])
    return all(_call(call["name"], call["arguments"]) in made for call in truth)


def _call(name: str, arguments: Any) -> tuple[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return name, arguments
    return name, json.dumps(arguments, sort_keys=True)


def _words(server: str) -> list[str]:
    try:
        words = shlex.split(server)
    except ValueError as error:
        raise ConfigError(f"The command line {server!r} cannot be read: {one_line(error)}.", "Write mcp:COMMAND or mcp:URL.") from None  # fmt: skip
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(f"There is no program {words[0] if words else server!r} for an MCP server.", "Write mcp:COMMAND or mcp:URL.")  # fmt: skip
    return words
