"""python-sandbox: programming tasks in a sandbox, verified by tests that the policy cannot see."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError
from ...base.threads import in_thread
from ...store.task import Score, Task
from ..tools import ToolSession, schema_of, tool_session
from .box import Sandbox, SandboxEnded, python, require_isolation
from .limits import SandboxLimits
from .tasks import NAME, generate_tasks, read_code_tasks, refuse_other_split

SCORER, SCORER_VERSION = "python-sandbox/tests", "1"
# Calls a function of a file, once for each line of input, and prints each value as a line of JSON. What the file prints itself goes elsewhere.
_CALLER = """
import json, os, sys
values = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(1, 2)
path, name = sys.argv[1:]
lines = sys.stdin.read().splitlines()
sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
import runpy
function = runpy.run_path(path)[name]
for line in lines:
    try:
        value = json.dumps(function(*json.loads(line)))
    except Exception as error:
        value = json.dumps({"error": type(error).__name__})
    values.write(value + "\\n")
    values.flush()
"""
_VERIFIED_BYTES = 1 << 20


class CodeTools:
    """The tools of one session."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def list_files(self, path: str = ".") -> str:
        """List the files below a folder of the working folder.

        Args:
            path: The folder.
        """
        return "\n".join(self._sandbox.list_files(path)) or "(no files)"

    def read_file(self, path: str) -> str:
        """Read a text file.

        Args:
            path: Relative to the working folder.
        """
        return self._sandbox.read_file(path)

    def write_file(self, path: str, content: str) -> str:
        """Write a text file, in place of one that exists.

        Args:
            path: Relative to the working folder.
            content: The whole text.
        """
        return f"{self._sandbox.write_file(path, content)} bytes written to {path}"

    def run_shell(self, command: str) -> str:
        """Run a command with sh in the working folder; its output and exit status are returned. There is no network.

        Args:
            command: A line or a script for sh.
        """
        return self._ran(["/bin/sh", "-c", command])

    def run_python(self, code: str) -> str:
        """Run Python code in the working folder; its output and exit status are returned. Nothing is kept but the files.

        Args:
            code: A whole program.
        """
        return self._ran([python(), "-c", code])

    def _ran(self, command: list[str]) -> str:
        found = self._sandbox.run(command)
        limits, notes = self._sandbox.limits, []
        if found["left_out"]:
            notes.append(f"{found['left_out']} further bytes of output are not shown")
        if found["stopped"] == "time":
            notes.append(f"stopped after {limits.seconds:g} s")
        elif found["stopped"] == "memory":
            notes.append(f"stopped: it held more than {limits.memory_mb} MB")
        elif found["status"]:
            notes.append(f"exit status {found['status']}")
        return "\n".join([found["output"].rstrip("\n"), *(f"[{note}]" for note in notes)]).strip("\n") or "(no output)"


TOOLS = tuple(schema_of(tool) for tool in (CodeTools.list_files, CodeTools.read_file, CodeTools.write_file, CodeTools.run_shell, CodeTools.run_python))  # fmt: skip


class SandboxEnvironment:
    """Programming tasks: a function to fix, or a script to write. Each session has a sandbox of its own.

    A task's `state` has `files` (text by path) and `tests`: `function` with `path`, or `command`, `inputs` and `expected`. Tests run in another sandbox,
    on a copy of the files, and the expected values never enter one.
    """

    name = NAME

    def __init__(
        self,
        tasks: str | Path | None = None,
        seed: int = 0,
        tasks_split: str = "train",
        *,
        limits: SandboxLimits | Mapping[str, Any] | None = None,
        n_train: int = 200,
        n_validation: int = 40,
        n_test: int = 40,
    ) -> None:
        """
        Args:
            tasks: A JSONL file of tasks; None generates them. See docs/environments.md.
            limits: Of a sandbox; None is the default.

        Raises ConfigError where nothing isolates.
        """
        require_isolation()
        self._tasks, self._seed, self._tasks_split = tasks, seed, tasks_split
        self._sizes = {"train": n_train, "validation": n_validation, "test": n_test}
        self._limits = limits if isinstance(limits, SandboxLimits) else _limits(limits or {})

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of a split. Raises ConfigError for another split, FormatError for a bad row."""
        refuse_other_split(split)
        if self._tasks is None:
            return generate_tasks(self._seed, split, self._sizes[split], TOOLS)
        return [task for task in read_code_tasks(self._tasks, self._tasks_split, TOOLS) if task.split == split]

    async def start(self, task: Task) -> ToolSession:
        """A session in a fresh sandbox that has the task's files."""
        return await in_thread(self._start, task)

    def _start(self, task: Task) -> ToolSession:
        sandbox = Sandbox(self._limits)
        tools = CodeTools(sandbox)
        try:
            sandbox.put_files({path: text.encode() for path, text in task.state["files"].items()})
            named = (tools.list_files, tools.read_file, tools.write_file, tools.run_shell, tools.run_python)
            return tool_session(named, lambda _: self._verdict(task, sandbox), free=sandbox.close)
        except BaseException:
            sandbox.close()
            raise

    def _verdict(self, task: Task, sandbox: Sandbox) -> Score:
        try:
            files = sandbox.take_files()
        except (SandboxEnded, ValueError):  # the policy ended its sandbox, or has more files than fit
            return _score(0.0, ("files_lost", 1.0, 0.0))
        results = [_passed(self._limits, files, test) for test in task.state["tests"]]
        passed = [one for result in results for one in result]
        return _score(sum(passed) / max(1, len(passed)))


def _score(share: float, *parts: tuple[str, float, float]) -> Score:
    solved = share == 1.0
    return Score(float(solved), solved, SCORER, SCORER_VERSION, (("tests_passed", share, 0.0), *parts))


def _passed(limits: SandboxLimits, files: Mapping[str, bytes], test: Mapping[str, Any]) -> list[bool]:
    """Whether each input of a test gives what is expected, in a sandbox of its own."""
    sandbox = Sandbox(limits)
    try:
        sandbox.put_files(files)
        found = _values(sandbox, test) if "function" in test else _outputs(sandbox, test)
    except (SandboxEnded, ValueError):
        found = []
    finally:
        sandbox.close()
    found += [_NOTHING] * (len(test["expected"]) - len(found))
    return [_equal(one, expected) for one, expected in zip(found, test["expected"], strict=False)]


_NOTHING = object()


def _values(sandbox: Sandbox, test: Mapping[str, Any]) -> list[Any]:
    lines = "".join(json.dumps(given) + "\n" for given in test["inputs"])
    ran = sandbox.run([python(), "-c", _CALLER, test["path"], test["function"]], lines, output_bytes=_VERIFIED_BYTES)
    return [_parsed(line) for line in ran["output"].splitlines()[: len(test["inputs"])]]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _NOTHING


def _outputs(sandbox: Sandbox, test: Mapping[str, Any]) -> list[str]:
    command = [python() if part == "python" else part for part in test["command"]]
    runs = (sandbox.run(command, text, output_bytes=_VERIFIED_BYTES) for text in test["inputs"])
    return [ran["output"] if ran["status"] == 0 and not ran["left_out"] else "" for ran in runs]


def _equal(found: Any, expected: Any) -> bool:
    """Whether two JSON values are equal; numbers within 1e-9, and true is not 1."""
    if isinstance(found, bool) or isinstance(expected, bool) or found is None:
        return found is expected
    if isinstance(found, int | float) and isinstance(expected, int | float):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_equal, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_equal(found[key], expected[key]) for key in found)
    return type(found) is type(expected) and found == expected


def _limits(given: Mapping[str, Any]) -> SandboxLimits:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(SandboxLimits).validate_python(dict(given))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"The limits of {NAME} are wrong: {place}: {error.errors()[0]['msg']}.", "See docs/environments.md.") from None  # fmt: skip
