"""What runs inside a sandbox, in the worker that is process 1 there: files, programs and their limits.

The standard library alone: nothing else of the project is visible from inside. Nothing here is trusted by the process outside, which bounds the time and
the size of every reply.
"""

import base64
import contextlib
import ctypes
import os
import resource
import select
import signal
import stat
import subprocess
import time
from typing import Any

WORK = "/work"
_LOOK_S = 0.05
_NOT_DUMPABLE = 4
_ENVIRONMENT = {
    "HOME": WORK,
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}


def begin() -> bool:
    """No program that is started here may trace or read this process."""
    ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0)
    return True


def read_file(path: str, limit: int) -> str:
    """The text of a regular file; what is no UTF-8 is replaced. Raises ValueError for another file or a longer one."""
    return _read(path, limit).decode("utf-8", "replace")


def write_file(path: str, text: str) -> int:
    """Writes a regular file and the folders it is in; returns its bytes."""
    place = os.path.join(WORK, path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    opened = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600)
    with os.fdopen(opened, "wb") as file:
        _refuse_special(opened, path)
        file.truncate(0)
        return file.write(text.encode("utf-8", "replace"))


def list_files(path: str, limit: int) -> list[str]:
    """The files below a folder, relative to it, sorted; at most `limit`. Links are not followed."""
    found: list[str] = []
    root = os.path.join(WORK, path)
    if not os.path.isdir(root):
        raise ValueError(f"there is no folder {path}")
    for folder, _, names in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
        if len(found) > limit:
            break
    return sorted(found)[:limit]


def put_files(files: dict[str, str]) -> bool:
    """Writes files, given as base64 by path."""
    for path, content in files.items():
        place = os.path.join(WORK, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(base64.b64decode(content))
    return True


def take_files(limit: int) -> dict[str, str]:
    """The regular files of the working folder as base64 by path. Raises ValueError when they have more than `limit` bytes."""
    found: dict[str, str] = {}
    size = 0
    for folder, _, names in os.walk(WORK):
        for name in names:
            place = os.path.join(folder, name)
            path = os.path.relpath(place, WORK)
            if not stat.S_ISREG(os.lstat(place).st_mode):
                continue
            content = _read(place, limit)
            size += len(content) + len(path)
            if size > limit:
                raise ValueError(f"the files have more than {limit} bytes")
            found[path.encode("utf-8", "replace").decode()] = base64.b64encode(content).decode()
    return found


def run(
    command: list[str],
    stdin: str,
    seconds: float,
    output_bytes: int,
    memory_bytes: int,
    folder: str | None,
    variables: dict[str, str],
) -> dict[str, Any]:
    """Runs a program in the working folder, or another one, and ends every process that it leaves behind.

    Returns:
        `output` (both streams, at most `output_bytes`), `left_out` (bytes of output beyond that), `status` (negative for a signal), and `stopped`:
        `time`, `memory` or None.
    """
    environment = _ENVIRONMENT | {"PATH": os.environ.get("PATH", "/usr/bin:/bin")} | variables
    process = subprocess.Popen(
        command, cwd=folder or WORK, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, bufsize=0,
    )  # fmt: skip
    cpu = int(seconds) + 2
    resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu, cpu))
    try:
        return _follow(process, stdin.encode("utf-8", "replace"), seconds, output_bytes, memory_bytes)
    finally:
        _end_all(process)


def _follow(
    process: "subprocess.Popen[bytes]", stdin: bytes, seconds: float, output_bytes: int, memory_bytes: int
) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    streams = select.poll()
    streams.register(process.stdout, select.POLLIN)
    os.set_blocking(process.stdin.fileno(), False)
    output, left_out, stopped, deadline = bytearray(), 0, None, time.monotonic() + seconds
    while stopped is None:
        stdin = _feed(process, stdin)
        ended = process.poll() is not None  # read before the output, which is then whole
        if streams.poll(0 if ended else _LOOK_S * 1000):
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            kept = chunk[: max(0, output_bytes - len(output))]
            output += kept
            left_out += len(chunk) - len(kept)
            if not chunk and ended:
                break
            if not chunk:
                time.sleep(_LOOK_S)
        elif ended:
            break
        if time.monotonic() > deadline:
            stopped = "time"
        elif _memory() > memory_bytes:
            stopped = "memory"
    _end_all(process)
    text = output.decode("utf-8", "replace")
    return {"output": text, "left_out": left_out, "status": process.returncode, "stopped": stopped}


def _feed(process: "subprocess.Popen[bytes]", stdin: bytes) -> bytes:
    """Writes what the pipe takes of the input and returns the rest; closes the pipe after the last of it."""
    pipe = process.stdin
    if pipe is None or pipe.closed:
        return b""
    try:
        stdin = stdin[os.write(pipe.fileno(), stdin) :] if stdin else stdin
    except BlockingIOError:
        return stdin
    except OSError:  # the program reads none of it
        stdin = b""
    if not stdin:
        pipe.close()
    return stdin


def _memory() -> int:
    """Bytes of memory that all processes but this one hold; 0 where /proc is not visible.

    Memory without a file that processes share counts whole and once, whether it is touched or not: the pages that one has let go are held on.
    A process that hides its mappings holds too much.
    """
    total = 0
    shared: dict[str, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal() or name == "1":
            continue
        try:
            with open(f"/proc/{name}/status") as file:
                total += sum(int(line.split()[1]) << 10 for line in file if line.startswith(("RssAnon:", "VmSwap:")))
            with open(f"/proc/{name}/maps", errors="replace") as file:
                for line in file:
                    if "/dev/zero" in line:
                        place, _, _, _, inode, *_ = line.split()
                        first, _, last = place.partition("-")
                        shared[inode] = max(shared.get(inode, 0), int(last, 16) - int(first, 16))
        except PermissionError:
            return 1 << 62
        except (OSError, ValueError, IndexError):
            continue
    return total + sum(shared.values())


def _end_all(process: "subprocess.Popen[bytes]") -> None:
    """Kills every other process of the sandbox; this one is process 1, whose children all orphans become."""
    if os.getpid() != 1:
        raise RuntimeError("this is not process 1 of a sandbox")
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _read(path: str, limit: int) -> bytes:
    opened = os.open(os.path.join(WORK, path), os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(opened, "rb") as file:
        _refuse_special(opened, path)
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return content


def _refuse_special(opened: int, path: str) -> None:
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        raise ValueError(f"{path} is not a regular file")
