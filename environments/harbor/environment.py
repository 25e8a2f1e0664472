"""harbor:FOLDER, task folders of Harbor: a shell in the task's environment, judged by the task's own tests there."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...base.containers import container_engine
from ...base.errors import ConfigError, RollhouseError, one_line
from ...base.threads import in_thread
from ...store.messages import Message
from ...store.task import Score, Task
from ..python_sandbox.box import SandboxEnded, require_isolation
from ..python_sandbox.limits import SandboxLimits
from ..tools import ToolSession, schema_of, tool_session
from .boxes import Box, LocalBox, container_box
from .folder import HarborTask, files_below, plain_image, read_harbor_task, variables_of

SCORER, SCORER_VERSION = "harbor/tests", "1"
_VERIFIER = "/logs/verifier"
_READ_BYTES = 1 << 20
_SANDBOXES = ("auto", "container", "local")


class HarborError(RollhouseError):
    """The tests of a task gave no reward."""


class HarborTools:
    """The tool of one session."""

    def __init__(self, box: Box, seconds: float, output_bytes: int) -> None:
        self._box, self._seconds, self._output_bytes = box, seconds, output_bytes

    def bash(self, command: str) -> str:
        """Run a command with bash in the working folder; its output and exit status are returned.

        Args:
            command: A line or a script.
        """
        found = self._box.run(command, self._seconds, self._output_bytes, {})
        notes = [f"{found['left_out']} further bytes of output are not shown"] if found["left_out"] else []
        if found["stopped"] == "time":
            notes.append(f"stopped after {self._seconds:g} s")
        elif found["stopped"] == "memory":
            notes.append("stopped: it held too much memory")
        elif found["status"]:
            notes.append(f"exit status {found['status']}")
        return "\n".join([found["output"].rstrip("\n"), *(f"[{note}]" for note in notes)]).strip("\n") or "(no output)"


TOOLS = (schema_of(HarborTools.bash),)


class HarborEnvironment:
    """Task folders of Harbor, each rollout in a box of its own.

    Attributes:
        verify_limit_s: The longest time that the tests of a task may take.
    """

    def __init__(
        self,
        folder: str,
        tasks_split: str = "train",
        *,
        name: str | None = None,
        sandbox: str = "auto",
        reward_key: str = "reward",
        pass_at: float = 1.0,
        seconds: float = 120.0,
        output_bytes: int = 16384,
        container_args: Sequence[str] = (),
    ) -> None:
        """Reads the tasks. Raises ConfigError for one that cannot run here.

        Args:
            folder: A task folder, or a folder of them.
            tasks_split: The split of all tasks.
            name: The environment of tasks and rollouts; None is `harbor`.
            sandbox: `container` (the task's image), `local` (a sandbox with this machine's tools and without network), or `auto`: a container where a runtime answers.
            reward_key: The entry of reward.json that is the reward.
            pass_at: The least reward of a rollout that passes.
            seconds: Limit of one command.
            output_bytes: Of a command's output that the policy sees.
            container_args: Further arguments of the runtime's `run`.
        """
        if sandbox not in _SANDBOXES:
            raise ConfigError(f"There is no sandbox {sandbox!r}.", f"Use {', '.join(_SANDBOXES)}.")
        self.name = name or "harbor"
        self._split, self._reward_key, self._pass_at = tasks_split, reward_key, pass_at
        self._limits = seconds, output_bytes
        self._arguments = list(container_args)
        self._folders: dict[str, HarborTask] = {}
        for task in map(read_harbor_task, _folders(Path(folder))):
            if task.name in self._folders:
                raise ConfigError(f"Two task folders are called {task.name}: {self._folders[task.name].folder} and {task.folder}.", "Give one of them another name in task.toml.")  # fmt: skip
            self._folders[task.name] = task
        self._in_containers = self._contained(sandbox)
        self.verify_limit_s = max(_test_limit(task) for task in self._folders.values()) + 60.0

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks by the names of their folders; all are of one split."""
        for task in self._folders.values() if split == self._split else ():
            solution = task.solution()
            yield Task(
                self.name,
                (Message("user", task.instruction),),
                TOOLS,
                ground_truth=None if solution is None else [{"name": "bash", "arguments": {"command": solution}}],
                state={"content": task.content_hash()},
                split=split,
                category=(task.settings.get("metadata") or {}).get("category"),
                source_key=task.name,
            )

    async def start(self, task: Task) -> ToolSession:
        """A session in a fresh box. Raises ConfigError for a task that the folder has not, or has otherwise."""
        found = self._folders.get(task.source_key or "")
        if found is None or (task.state or {}).get("content") != found.content_hash():
            raise ConfigError(f"The task {task.source_key} is not in the folder, or has changed.", "Name the folder that it was collected from.")  # fmt: skip
        return await in_thread(self._start, found)

    def _contained(self, sandbox: str) -> bool:
        """Whether tasks run in containers. Raises ConfigError where the tasks cannot run."""
        reason = None
        if sandbox != "local":
            try:
                container_engine()
                return True
            except ConfigError as error:
                if sandbox == "container":
                    raise
                reason = error.message
        require_isolation()
        for task in self._folders.values():
            hindrance = plain_image(task).hindrance
            if hindrance is not None:
                why = "" if reason is None else f" {reason}"
                raise ConfigError(f"The task {task.name} needs {hindrance}, and so a container.{why}", "Install Docker or Podman, or leave the task out.")  # fmt: skip
        return False

    def _start(self, task: HarborTask) -> ToolSession:
        seconds, output_bytes = self._limits
        if self._in_containers:
            box: Box = container_box(task, self._arguments)
        else:
            memory = int(task.environment.get("memory_mb") or 2048)
            box = LocalBox(plain_image(task), SandboxLimits(seconds, memory, 256, 256, 20_000, _READ_BYTES))
        try:
            tools = HarborTools(box, seconds, output_bytes)
            return tool_session([tools.bash], lambda _: self._verdict(task, box), free=box.close)
        except BaseException:
            box.close()
            raise

    def _verdict(self, task: HarborTask, box: Box) -> Score:
        try:
            said = run_tests(task, box)
            rewards = read_rewards(box)
        except SandboxEnded:  # the policy ended its sandbox
            return Score(0.0, False, SCORER, SCORER_VERSION, (("environment_lost", 1.0, 0.0),))
        if rewards is None:
            raise HarborError(f"The tests of {task.name} wrote neither reward.json nor reward.txt: {one_line(said[-300:], 300)}", "Run them by hand.")  # fmt: skip
        if self._reward_key not in rewards:
            raise HarborError(f"The tests of {task.name} wrote no reward {self._reward_key!r}, but {', '.join(rewards)}.", "Name one with the option reward_key.")  # fmt: skip
        reward = rewards[self._reward_key]
        parts = [(name, value, float(name == self._reward_key)) for name, value in rewards.items()]
        parts += read_ctrf(box.read(f"{_VERIFIER}/ctrf.json", _READ_BYTES))
        return Score(reward, reward >= self._pass_at, SCORER, SCORER_VERSION, tuple(parts))


def run_tests(task: HarborTask, box: Box) -> str:
    """Runs the tests in the box, as Harbor does, and returns their output: only what they write is the verdict."""
    # What the policy left there, a conftest.py for instance, is no part of the tests.
    clean = f"rm -rf {_VERIFIER}/reward.txt {_VERIFIER}/reward.json {_VERIFIER}/ctrf.json /tests/* /tests/.[!.]*; mkdir -p {_VERIFIER}"
    box.run(clean, 60, 1024, {})
    box.put({f"/tests/{place}": file for place, file in files_below(task.folder / "tests").items()})
    command = f"chmod +x /tests/test.sh; (/tests/test.sh) > {_VERIFIER}/test-stdout.txt 2>&1"
    ran = box.run(command, _test_limit(task), 1024, variables_of(task.verifier.get("env")))
    if ran["stopped"] is not None:
        raise HarborError(f"The tests of {task.name} were stopped: more {ran['stopped']} than they may use.", "Raise verifier.timeout_sec, or memory_mb.")  # fmt: skip
    said = box.read(f"{_VERIFIER}/test-stdout.txt", _READ_BYTES)
    return (said or b"").decode("utf-8", "replace")


def read_rewards(box: Box) -> dict[str, float] | None:
    """The rewards by name: those of reward.json, else the one of reward.txt; None without either. Raises HarborError for a file that holds none."""
    text = box.read(f"{_VERIFIER}/reward.json", _READ_BYTES)
    if text is not None:
        try:
            found = json.loads(text)
        except ValueError:
            raise HarborError("The tests wrote a reward.json that is no JSON.", "Correct them.") from None
        found = found if isinstance(found, dict) else {"reward": found}
    else:
        text = box.read(f"{_VERIFIER}/reward.txt", _READ_BYTES)
        if text is None:
            return None
        try:
            found = {"reward": float(text)}
        except ValueError:
            raise HarborError(f"The tests wrote a reward.txt that is no number: {one_line(text.decode(errors='replace'), 60)}.", "Correct them.") from None  # fmt: skip
    for name, value in found.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise HarborError(f"The tests wrote a reward {name!r} that is no finite number.", "Correct them.")
    return {name: float(value) for name, value in found.items()}


def read_ctrf(text: bytes | None) -> list[tuple[str, float, float]]:
    """Components of a test report in the Common Test Report Format: the tests that passed, failed and were skipped. Empty without a readable one."""
    try:
        summary = json.loads(text or b"")["results"]["summary"]
        return [(f"tests_{name}", float(summary[name]), 0.0) for name in ("passed", "failed", "skipped") if name in summary]  # fmt: skip
    except (ValueError, TypeError, KeyError):
        return []


def _folders(folder: Path) -> list[Path]:
    """The task folders. Raises ConfigError when there is none."""
    found = [folder] if (folder / "task.toml").is_file() else sorted(file.parent for file in folder.glob("*/task.toml"))
    if not found:
        raise ConfigError(f"There is no task folder of Harbor in {folder}.", "Name a folder with task.toml, or a folder of such folders.")  # fmt: skip
    return found


def _test_limit(task: HarborTask) -> float:
    return float(task.verifier.get("timeout_sec") or 600.0)
