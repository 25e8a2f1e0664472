"""Where the commands of a Harbor task run: in a container of its image, or in a sandbox with the tools of this machine."""

import hashlib
import io
import os
import subprocess
import tarfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ...base.containers import container_engine
from ...base.errors import ConfigError, RollhouseError, one_line
from ..python_sandbox.box import Sandbox
from ..python_sandbox.limits import SandboxLimits
from .folder import HarborTask, PlainImage, files_below, variables_of

PLACES = ("/logs/verifier", "/logs/agent", "/logs/artifacts", "/tests", "/solution")
_START_S = 300.0


class BoxError(RollhouseError):
    """A container cannot be started, or has ended."""


class Box(Protocol):
    """One environment of one rollout. One call at a time, from any thread."""

    def run(self, command: str, seconds: float, output_bytes: int, variables: Mapping[str, str]) -> dict[str, Any]:
        """Runs a shell command in the task's working folder; the keys are those of `Sandbox.run`."""
        ...

    def put(self, files: Mapping[str, Path]) -> None:
        """Copies files to absolute paths, with the right to execute those that have it."""
        ...

    def read(self, path: str, limit: int) -> bytes | None:
        """At most `limit` bytes of a file; None when it is not there."""
        ...

    def close(self) -> None:
        """Ends all that runs in it."""
        ...


class LocalBox:
    """A sandbox of `python_sandbox`, whose writable folders are those of the task."""

    def __init__(self, plain: PlainImage, limits: SandboxLimits) -> None:
        tops = {_top(path) for path in (plain.workdir, *plain.files)} | {
            "/app",
            "/root",
            "/logs",
            "/tests",
            "/solution",
        }
        self._plain, self._sandbox = plain, Sandbox(limits, tuple(sorted(tops - {"/work", "/tmp"})))
        try:
            made = " ".join(_quoted(place) for place in (*PLACES, plain.workdir))
            self._sandbox.run(["/bin/sh", "-c", f"mkdir -p {made}"])
            self.put(plain.files)
        except BaseException:
            self.close()
            raise

    def run(self, command: str, seconds: float, output_bytes: int, variables: Mapping[str, str]) -> dict[str, Any]:
        """See Box."""
        given = {"HOME": "/root", **self._plain.variables, **variables}
        return self._sandbox.run([_SHELL, "-c", command], seconds=seconds, output_bytes=output_bytes, folder=self._plain.workdir, variables=given)  # fmt: skip

    def put(self, files: Mapping[str, Path]) -> None:
        """See Box."""
        self._sandbox.put_files({path: file.read_bytes() for path, file in files.items()})
        programs = [path for path, file in files.items() if file.stat().st_mode & 0o100]
        if programs:
            self._sandbox.run(["/bin/chmod", "+x", *programs])

    def read(self, path: str, limit: int) -> bytes | None:
        """See Box."""
        try:
            return self._sandbox.read_file(path).encode()[:limit]
        except ValueError:
            return None

    def close(self) -> None:
        """See Box."""
        self._sandbox.close()


class ContainerBox:
    """A container that ends with this process: its first process reads the pipe that this one holds."""

    def __init__(self, image: str, workdir: str | None, variables: Mapping[str, str], network: bool, user: str | None, arguments: Sequence[str]) -> None:  # fmt: skip
        self._engine, self._name, self._user = container_engine(), f"rollhouse-{uuid.uuid4().hex[:20]}", user
        self._workdir = workdir
        given = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        made = " ".join(PLACES)
        self._holder = subprocess.Popen(
            [self._engine, "run", "--rm", "--interactive", "--name", self._name, "--network", "host" if network else "none",
             *arguments, *given, "--entrypoint", "/bin/sh", image, "-c", f"mkdir -p {made}; chmod 777 {made}; echo ready; exec cat > /dev/null"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._holder.stdout is not None and self._holder.stderr is not None
        watch = threading.Timer(_START_S, self._holder.kill)
        watch.start()
        ready = self._holder.stdout.readline()
        watch.cancel()
        if ready != b"ready\n":
            self.close()
            raise BoxError(f"A container of {image} was not started: {one_line(self._holder.stderr.read().decode(errors='replace'), 300)}", "See the runtime's log.")  # fmt: skip

    def run(self, command: str, seconds: float, output_bytes: int, variables: Mapping[str, str]) -> dict[str, Any]:
        """See Box."""
        given = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        place = ["--workdir", self._workdir] if self._workdir else []
        user = ["--user", self._user] if self._user else []
        shell = 'command -v bash > /dev/null && exec bash -c "$0" || exec sh -c "$0"'
        program = subprocess.Popen(
            [self._engine, "exec", *place, *user, *given, self._name, "/bin/sh", "-c", shell, command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        over = threading.Event()

        def stop() -> None:
            over.set()
            subprocess.run([self._engine, "exec", self._name, "/bin/sh", "-c", "kill -9 -1"], capture_output=True)
            program.kill()

        watch = threading.Timer(seconds, stop)
        watch.start()
        kept, left_out = bytearray(), 0
        try:
            assert program.stdout is not None
            while chunk := os.read(program.stdout.fileno(), 1 << 16):
                part = chunk[: max(0, output_bytes - len(kept))]
                kept += part
                left_out += len(chunk) - len(part)
            status = program.wait()
        finally:
            watch.cancel()
            program.kill()
            program.wait()
        return {"output": kept.decode("utf-8", "replace"), "left_out": left_out, "status": status, "stopped": "time" if over.is_set() else None}  # fmt: skip

    def put(self, files: Mapping[str, Path]) -> None:
        """See Box."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, file in files.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = file.stat().st_size, 0o755 if file.stat().st_mode & 0o100 else 0o644
                with file.open("rb") as content:
                    archive.addfile(entry, content)
        folders = sorted({str(PurePosixPath(path).parent) for path in files})
        self._do(["exec", self._name, "/bin/mkdir", "-p", *folders])
        self._do(["cp", "-", f"{self._name}:/"], packed.getvalue())

    def read(self, path: str, limit: int) -> bytes | None:
        """See Box."""
        found = subprocess.run([self._engine, "exec", self._name, "/bin/sh", "-c", f'head -c {limit} "$0"', path], capture_output=True)  # fmt: skip
        return found.stdout if found.returncode == 0 else None

    def close(self) -> None:
        """See Box."""
        self._holder.kill()
        subprocess.run([self._engine, "rm", "--force", self._name], capture_output=True)
        self._holder.wait()

    def _do(self, command: list[str], given: bytes | None = None) -> None:
        done = subprocess.run([self._engine, *command], input=given, capture_output=True)
        if done.returncode:
            raise BoxError(f"`{self._engine} {command[0]}` failed: {one_line(done.stderr.decode(errors='replace'), 300)}", "See the runtime's log.")  # fmt: skip


def image_of(task: HarborTask) -> str:
    """The image of a task, which is built from its Dockerfile where task.toml names none. Raises ConfigError when it cannot be built."""
    if task.image is not None:
        return task.image
    if task.dockerfile is None:
        raise ConfigError(f"The task {task.name} has neither docker_image nor environment/Dockerfile.", "Add one, or use sandbox=local.")  # fmt: skip
    engine, context = container_engine(), task.dockerfile.parent
    digest = hashlib.sha256()
    for place, file in files_below(context).items():
        digest.update(f"{place} {file.stat().st_mode & 0o100} ".encode() + file.read_bytes())
    name = f"localhost/rollhouse-harbor:{digest.hexdigest()[:24]}"
    if subprocess.run([engine, "image", "inspect", name], capture_output=True).returncode == 0:
        return name
    limit = float(task.environment.get("build_timeout_sec") or 600)
    try:
        built = subprocess.run([engine, "build", "--tag", name, str(context)], capture_output=True, text=True, timeout=limit)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ConfigError(f"The image of {task.name} took longer than {limit:g} s to build.", "Raise build_timeout_sec.") from None  # fmt: skip
    if built.returncode:
        raise ConfigError(f"The image of {task.name} cannot be built: {one_line(built.stderr[-300:], 300)}", "Build it by hand to see why.")  # fmt: skip
    return name


def container_box(task: HarborTask, arguments: Sequence[str]) -> ContainerBox:
    """A container of the task's image, with the memory and CPUs that task.toml asks for."""
    own = task.environment
    limits = [f"--memory={own['memory_mb']}m"] if own.get("memory_mb") else []
    limits += [f"--cpus={own['cpus']}"] if own.get("cpus") else []
    user = (task.settings.get("agent") or {}).get("user")
    network = own.get("network_mode", "public") != "no-network" and own.get("allow_internet") is not False
    return ContainerBox(image_of(task), task.workdir, variables_of(own.get("env")), network, None if user is None else str(user), [*limits, *arguments])  # fmt: skip


_SHELL = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


def _top(path: str) -> str:
    """The folder just below the root that holds a path; of one in a system folder, all of it but the name."""
    parts = PurePosixPath(path).parts
    return f"/{parts[1]}" if len(parts) > 1 else "/app"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
