"""How the program of a rollout runs: forked from a launcher in a supervised process tree, in a container, or in a thread."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..base.containers import container_engine
from ..base.errors import ConfigError, one_line
from ..base.time_limit import TimeLimitExceeded, time_limit
from ..base.worker_process import WorkerDied, WorkerError, WorkerProcess, WorkerSetup, WorkerUnavailable
from ..environments.harness import HarnessSettings
from ..store.task import Task
from .client import Access, HarnessClient, variables_of
from .program import call_harness, error_text, load_harness, task_json, verdict_json

_GRACE_S = 15.0
"""Seconds after the time limit in which a supervisor has killed all and reported."""
_START_S = 120.0


@dataclass(frozen=True)
class ProgramEnd:
    """How a program ended.

    Attributes:
        verdict: The body of a `/finish` that it returned or wrote; None for none.
        error: Why it failed, on one line; None when it did not.
        timed_out: Whether its time was over.
        exit: Its exit code, negative for a signal; None where it was stopped, or is no process.
        stdout, stderr: Their beginning and end; None where they are not its own.
    """

    verdict: dict[str, Any] | None = None
    error: str | None = None
    timed_out: bool = False
    exit: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class Runner(Protocol):
    """Runs the programs of one harness."""

    async def run(self, task: Task, access: Access, limit_s: float, seed: int | None) -> ProgramEnd:
        """Runs one; when it returns or is cancelled, the program has ended with all that it started. Raises ConfigError for one that cannot run."""
        ...

    def close(self) -> None:
        """Ends what is left."""
        ...


def open_runner(settings: HarnessSettings) -> Runner:
    """The runner of a harness. Raises ConfigError for code that cannot be imported and a missing program, MissingExtra for a missing package."""
    if settings.runs_in == "thread":
        return ThreadRunner(settings)
    return ProcessRunner(settings)


@dataclass
class ProcessRunner:
    """Programs in processes, or in containers, which a supervised process starts and watches."""

    settings: HarnessSettings
    _engine: str | None = None
    _launcher: WorkerProcess | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "rollhouse-launcher"))

    def __post_init__(self) -> None:
        if self.settings.runs_in == "container":
            self._engine = container_engine()
        elif self.settings.command and shutil.which(self.settings.command[0]) is None:
            raise ConfigError(f"The harness's program {self.settings.command[0]!r} is not there.", "Correct environment.harness.command.")  # fmt: skip
        self._thread.submit(self._start_launcher).result()

    async def run(self, task: Task, access: Access, limit_s: float, seed: int | None) -> ProgramEnd:
        """See Runner."""
        with tempfile.TemporaryDirectory(prefix="rollhouse-harness-", ignore_cleanup_errors=True) as folder:
            return await self._run(Path(folder), task, access, limit_s, seed)

    def close(self) -> None:
        """See Runner."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._launcher is not None:
            self._launcher.kill()

    async def _run(self, folder: Path, task: Task, access: Access, limit_s: float, seed: int | None) -> ProgramEnd:
        report = folder / "report"
        os.mkfifo(report)
        reading = os.open(report, os.O_RDONLY | os.O_NONBLOCK)
        try:
            request = self._request(folder, task, access, limit_s, seed)
            starting = asyncio.get_running_loop().run_in_executor(self._thread, self._start, request)
            try:
                pid = await asyncio.shield(starting)
            except asyncio.CancelledError:
                with contextlib.suppress(WorkerError):
                    _signal(await starting, signal.SIGTERM)
                raise
            except WorkerError as error:
                return ProgramEnd(error=f"the program was not started: {one_line(error.message)}")
            text = await self._report(reading, pid, limit_s)
        finally:
            os.close(reading)
        return self._outcome(text, folder / "result.json", limit_s)

    async def _report(self, reading: int, pid: int, limit_s: float) -> bytes:
        """What the supervisor reports; empty when it was killed, or reported nothing in time."""
        loop, chunks, ended = asyncio.get_running_loop(), [], asyncio.Event()

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(reading, 1 << 16)
                chunks.append(chunk)
                if not chunk:
                    loop.remove_reader(reading)
                    ended.set()

        loop.add_reader(reading, read)
        try:
            async with asyncio.timeout(limit_s + _GRACE_S):
                await ended.wait()
        except TimeoutError:
            _signal(pid, signal.SIGKILL)
        except asyncio.CancelledError:
            _signal(pid, signal.SIGTERM)  # it kills the program and all below it
            with contextlib.suppress(TimeoutError):
                await asyncio.shield(asyncio.wait_for(ended.wait(), _GRACE_S))
            raise
        finally:
            loop.remove_reader(reading)
        return b"".join(chunks)

    def _outcome(self, text: bytes, result: Path, limit_s: float) -> ProgramEnd:
        try:
            found = json.loads(text)
        except ValueError:
            return ProgramEnd(error="the process that watched the program was killed")
        value = json.loads(found["value"]) if found["value"] else {}
        own: dict[str, Any] = {"exit": found["exit"], "stdout": found["stdout"], "stderr": found["stderr"]}
        if found["stopped"] is not None:
            return ProgramEnd(timed_out=found["stopped"] == "time", error="the program was stopped", **own)
        if "error" in value:
            return ProgramEnd(error=value["error"], **own)
        if self.settings.reward == "exit":
            return ProgramEnd(verdict={"reward": float(found["exit"] == 0)}, **own)
        if found["exit"] != 0:
            return ProgramEnd(error=_ended(found["exit"], found["stderr"]), **own)
        if not self.settings.command:
            if "verdict" not in value:
                return ProgramEnd(error="the program ended without a value", **own)
            return ProgramEnd(verdict=value["verdict"], **own)
        try:
            return ProgramEnd(verdict=_result(result), **own)
        except ValueError as error:
            return ProgramEnd(error=f"its result file is not a JSON object: {one_line(error)}", **own)

    def _request(self, folder: Path, task: Task, access: Access, limit_s: float, seed: int | None) -> dict[str, Any]:
        settings = self.settings
        plain = task_json(task, truth=not settings.command or settings.reward == "auto")
        files = {"ROLLHOUSE_TASK": str(folder / "task.json"), "ROLLHOUSE_RESULT": str(folder / "result.json"), "ROLLHOUSE_FOLDER": str(folder)}  # fmt: skip
        variables = variables_of(HarnessClient(access)) | files | settings.variables
        request: dict[str, Any] = {"report": str(folder / "report"), "limit_s": limit_s, "variables": variables, "cleanup": []}  # fmt: skip
        if not settings.command:
            client = {**asdict(access), "tools": list(access.tools)}
            return request | {"harness": settings.name, "options": settings.options, "task": plain, "client": client, "seed": seed}  # fmt: skip
        Path(files["ROLLHOUSE_TASK"]).write_text(json.dumps(plain))
        command = settings.command
        if self._engine is not None:
            name = f"rollhouse-{access.url.rpartition('/')[2][:32]}"
            command = container_command(self._engine, name, str(settings.image), folder, variables, command)
            request["cleanup"] = [self._engine, "rm", "--force", name]
        return request | {"command": command}

    def _start(self, request: dict[str, Any]) -> int:
        """On the thread: a launcher has one caller at a time."""
        if self._launcher is None or not self._launcher.is_alive():
            self._start_launcher()
        assert self._launcher is not None
        return self._launcher.call(f"{__package__}.launch:start", [request], _START_S)

    def _start_launcher(self) -> None:
        if self._launcher is not None:
            self._launcher.kill()
        environment = dict(os.environ) | {"OPENAI_AGENTS_DISABLE_TRACING": "1", **self.settings.variables}
        setup = WorkerSetup(modules=[f"{__package__}.launch"], environment=environment, cwd=os.getcwd(), file_bytes=None)  # fmt: skip
        self._launcher = WorkerProcess(setup)
        try:
            self._launcher.call(f"{__package__}.launch:prepare", [self.settings.name], _START_S)
        except (WorkerError, TimeoutError) as error:
            self._launcher.kill()
            fields = getattr(error, "fields", None)
            if fields is not None:
                raise ConfigError(fields["message"], fields["fix"]) from error
            if isinstance(error, (WorkerDied, WorkerUnavailable)):
                raise
            raise ConfigError(f"The harness {self.settings.label!r} cannot be imported: {one_line(error)}.", "Correct its module.") from error  # fmt: skip


class ThreadRunner:
    """Functions in threads of this process, each with an event loop of its own. A function that blocks in native code past its limit keeps its thread."""

    def __init__(self, settings: HarnessSettings) -> None:
        self.settings = settings
        self._function = load_harness(str(settings.name))

    async def run(self, task: Task, access: Access, limit_s: float, seed: int | None) -> ProgramEnd:
        """See Runner; a program that its limit does not end is left behind."""
        outcome: Future[ProgramEnd] = Future()
        ending = threading.Event()
        outcome.set_running_or_notify_cancel()  # from now on nobody but the thread settles it
        work = lambda: outcome.set_result(self._play(task, access, limit_s, ending))  # noqa: E731
        threading.Thread(target=work, name="rollhouse-harness", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(outcome), limit_s + 2)
        except TimeoutError:
            return ProgramEnd(timed_out=True, error="the program was left behind: it does not end")
        finally:
            ending.set()

    def close(self) -> None:
        """See Runner."""

    def _play(self, task: Task, access: Access, limit_s: float, ending: threading.Event) -> ProgramEnd:
        async def limited() -> Any:
            work = asyncio.ensure_future(call_harness(self._function, task, HarnessClient(access), self.settings.options))  # fmt: skip
            watch = asyncio.ensure_future(_until(ending))
            try:
                async with asyncio.timeout(limit_s):
                    await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                    return await work if work.done() else None
            finally:
                for one in (work, watch):
                    one.cancel()
                await asyncio.gather(work, watch, return_exceptions=True)

        try:
            with time_limit(limit_s + 1):
                return ProgramEnd(verdict=verdict_json(asyncio.run(limited())))
        except (TimeoutError, TimeLimitExceeded) as error:
            return ProgramEnd(timed_out=True, error=error_text(error))
        except BaseException as error:
            return ProgramEnd(error=error_text(error))


def container_command(
    engine: str, name: str, image: str, folder: Path, variables: Mapping[str, str], command: list[str]
) -> list[str]:
    """The command line that runs a command in a container: on the host's network, with the rollout's folder and no other."""
    given = [part for variable in variables for part in ("--env", variable)]  # values are inherited: `ps` shows none
    return [engine, "run", "--rm", "--name", name, "--network", "host", "--volume", f"{folder}:{folder}", *given, image, *command]  # fmt: skip


async def _until(ending: threading.Event) -> None:
    while not ending.is_set():
        await asyncio.sleep(0.2)


def _result(file: Path) -> dict[str, Any] | None:
    """The result file of a command; None without one. Raises ValueError."""
    if not file.is_file():
        return None
    if file.stat().st_size > 1 << 20:
        raise ValueError("it is longer than 1 MB")
    found = json.loads(file.read_text())
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}")
    return found


def _ended(code: int, stderr: str) -> str:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = stderr.strip().splitlines()
    return one_line(f"the program ended with {how}{': ' + lines[-1] if lines else ''}", 300)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
