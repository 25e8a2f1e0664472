"""A sandbox: a throw-away folder, and programs over it that reach nothing else."""

import base64
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError, one_line
from ...base.worker_process import MAIN, WorkerDied, WorkerError, WorkerProcess, WorkerSetup, kill_at_exit
from .limits import SandboxLimits
from .syscalls import filter_program

_HERE = Path(__file__).resolve().parent
_CODE = "/opt/rollhouse"
_SLACK_S = 20.0
_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_FILES = ("/etc/ld.so.cache", "/etc/alternatives")


class SandboxEnded(Exception):
    """The sandbox and its files are gone: it held too much memory, or did not answer."""


class Sandbox:
    """One sandbox. Its files are in memory and go with it. One call at a time, from any thread.

    Raises ConfigError where nothing isolates, WorkerUnavailable when no process can be started.
    """

    def __init__(self, limits: SandboxLimits, places: Sequence[str] = ()) -> None:
        """`places` are further writable folders, in memory and empty."""
        require_isolation()
        self.limits = limits
        self._worker: WorkerProcess | None = WorkerProcess(
            WorkerSetup(
                launcher=_launcher(limits, [python(), "-I", "-S", f"{_CODE}/{MAIN.name}"], places),
                folders=[_CODE],
                path=None,
                # The worker itself and what is in memory as files come on top of what programs may hold.
                resident_bytes=(3 * limits.memory_mb + 64) << 20,
                file_bytes=None,
                reply_bytes=(limits.files_mb << 21) + (1 << 20),
                environment={},
            )
        )
        self._finalizer = kill_at_exit(self, {self._worker})
        self._call("begin")

    def read_file(self, path: str) -> str:
        """The text of a file. Raises ValueError."""
        return self._call("read_file", path, self.limits.output_bytes)

    def write_file(self, path: str, text: str) -> int:
        """Writes a file and returns its bytes. Raises ValueError."""
        return self._call("write_file", path, text)

    def list_files(self, path: str, limit: int = 1000) -> list[str]:
        """The files below a folder. Raises ValueError."""
        return self._call("list_files", path, limit)

    def put_files(self, files: Mapping[str, bytes]) -> None:
        """Writes files by path."""
        self._call("put_files", {path: base64.b64encode(content).decode() for path, content in files.items()})

    def take_files(self) -> dict[str, bytes]:
        """The regular files by path. Raises ValueError when they do not fit `files_mb`."""
        found = self._call("take_files", self.limits.files_mb << 20)
        return {path: base64.b64decode(content) for path, content in found.items()}

    def run(
        self,
        command: list[str],
        stdin: str = "",
        output_bytes: int | None = None,
        *,
        seconds: float | None = None,
        folder: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Runs a program; see `inside.run`. Raises ValueError when it cannot be started.

        Args:
            output_bytes: Of the output that is returned; None is the limits'.
            seconds: Its time limit; None is the limits'.
            folder: Where it runs; None is the working folder.
            variables: Further ones of its environment.
        """
        limits = self.limits
        time_s = limits.seconds if seconds is None else seconds
        given = (command, stdin, time_s, output_bytes or limits.output_bytes, limits.memory_mb << 20)
        return self._call("run", *given, folder, dict(variables or {}), timeout_s=time_s + _SLACK_S)

    def close(self) -> None:
        """Ends the sandbox and every process in it."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def _call(self, function: str, *args: Any, timeout_s: float = _SLACK_S) -> Any:
        if self._worker is None:
            raise SandboxEnded("the sandbox has ended, and its files are gone")
        try:
            return self._worker.call(f"inside:{function}", args, timeout_s)
        except TimeoutError:
            reason = f"the sandbox did not answer within {timeout_s:g} s"
        except OSError:
            reason = "the sandbox has ended"
        except WorkerDied as error:
            reason = f"the sandbox held more than {self.limits.memory_mb} MB" if error.over_memory else "the sandbox has ended"  # fmt: skip
        except WorkerError as error:
            raise ValueError(_reason(error)) from None
        self.close()
        raise SandboxEnded(f"{reason}, and its files are gone")


def _reason(error: WorkerError) -> str:
    """The error of a function as text for the policy: `ValueError: there is no folder x`."""
    _, _, text = error.message.partition(" failed: ")
    kind, _, rest = text.rstrip(".").partition(": ")
    return rest if kind == "ValueError" and rest else text.rstrip(".")


def require_isolation() -> None:
    """Raises ConfigError, with the reason, where no sandbox can be started."""
    reason = _why_not()
    if reason is not None:
        raise ConfigError(
            f"No sandbox can be started on this machine: {reason}.",
            "The environment python-sandbox needs Linux 5.12 or later with user namespaces that this user may create.",
        )


@cache
def _why_not() -> str | None:
    if not sys.platform.startswith("linux"):
        return f"its system is {sys.platform}"
    command = [python(), "-I", "-S", "-c", "print('sandbox')"]
    try:
        tried = subprocess.run(_launcher(SandboxLimits(), command), capture_output=True, text=True, timeout=60, env={}, check=False)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return one_line(error)
    return None if tried.stdout == "sandbox\n" else one_line(tried.stderr or f"exit status {tried.returncode}", 200)


def _launcher(limits: SandboxLimits, command: list[str], places: Sequence[str] = ()) -> list[str]:
    """The command that runs another one in a sandbox; see `isolate`."""
    binds, links = _places()
    settings = {
        "binds": [*binds, [str(MAIN), f"{_CODE}/{MAIN.name}"], [str(_HERE / "inside.py"), f"{_CODE}/inside.py"]],
        "links": links,
        "work_mb": limits.files_mb,
        "tmp_mb": limits.files_mb,
        "files": limits.files,
        "places": list(places),
        "filter": filter_program().hex(),
        "limits": {
            "AS": limits.memory_mb << 20,
            "NPROC": limits.processes,
            "NOFILE": 256,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
        },
        "command": command,
        "environment": {"PATH": f"{Path(python()).parent}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
    }
    return [sys.executable, "-I", "-S", str(_HERE / "isolate.py"), json.dumps(settings)]


@cache
def python() -> str:
    """The interpreter inside: the one of this process without its virtual environment."""
    return os.path.realpath(sys.executable)


@cache
def _places() -> tuple[list[list[str]], list[list[str]]]:
    """What is visible inside, read-only: (source, target) of folders and files, (target, text) of links."""
    links = [[place, os.readlink(place)] for place in _FOLDERS if os.path.islink(place)]
    folders = [place for place in _FOLDERS if os.path.isdir(place) and not os.path.islink(place)]
    libraries = sysconfig.get_config_var("LIBDIR") or ""
    for own in (os.path.realpath(sys.base_prefix), os.path.dirname(python()), libraries):
        if os.path.isdir(own) and own != "/" and not any(f"{own}/".startswith(f"{folder}/") for folder in folders):
            folders.append(own)
    return [[place, place] for place in [*folders, *(file for file in _FILES if os.path.exists(file))]], links
