"""What the launcher does: a worker process that imports a harness once, and forks a supervised program for each rollout.

Its functions are called by name in the worker; see `base.worker_process`.
"""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from .program import load_harness, play_function
from .supervisor import become_subreaper, kill_descendants, supervise

_programs: set[int] = set()


def prepare(name: str | None) -> int:
    """Imports the harness of that name, if it has one, and returns the launcher's process id. Raises ConfigError."""
    become_subreaper()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors: they report by themselves
    if name is not None:
        load_harness(name)
    return os.getpid()


def start(request: dict[str, Any]) -> int:
    """Starts a program, and returns the process id of its supervisor.

    Args:
        request: `report`, a named pipe that is read by the caller; `limit_s`; `variables` of the program's environment; `command` or `harness` with `task`,
            `options`, `client` and `seed` as in `program.play_function`; `cleanup`, a command to run at the end.
    """
    _sweep()
    report = os.open(request["report"], os.O_WRONLY)
    pid = os.fork()
    if pid:
        os.close(report)
        _programs.add(pid)
        return pid
    try:
        _leave_the_launcher(report)
        supervise(lambda value: _program(request, value), request["limit_s"], report, request["cleanup"])
    finally:
        os._exit(1)


def _sweep() -> None:
    """Kills what a program left whose supervisor was killed: it is this process's child."""
    alive = {pid for pid in _programs if Path(f"/proc/{pid}").exists()}
    _programs.intersection_update(alive)
    kill_descendants(spared=tuple(alive))


def _leave_the_launcher(report: int) -> None:
    """Closes the launcher's pipes: it must be seen to end when it does."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2 and descriptor != report:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _program(request: dict[str, Any], value: int) -> int:
    os.environ.update(request["variables"])
    command = request.get("command")
    if command:
        try:
            os.execvp(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]} cannot be started: {error.strerror}\n".encode())
            return 127
    return play_function(request, value)
