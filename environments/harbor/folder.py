"""Reads a task folder of Harbor: task.toml, instruction.md, environment/, tests/, solution/."""

import base64
import hashlib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...base.errors import ConfigError, FormatError, one_line

_CANARY = re.compile(r"<!--.*canary.*-->|#.*canary.*", re.IGNORECASE)
_TEMPLATE = re.compile(r"\$\{([^}:]+)(?::-(.*))?\}")
_SOLUTION_BYTES = 1 << 20
# Instructions that change nothing for commands run with the tools of this machine.
_IGNORED = {"FROM", "LABEL", "MAINTAINER", "EXPOSE", "CMD", "ENTRYPOINT", "USER", "ARG", "SHELL", "STOPSIGNAL"}


@dataclass(frozen=True)
class PlainImage:
    """What a Dockerfile does that needs no image: a working folder, variables, and files of `environment/` by their place in the image.

    Attributes:
        hindrance: The first instruction that needs an image; None for a Dockerfile without any, and without a Dockerfile.
    """

    workdir: str = "/app"
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    hindrance: str | None = None


@dataclass(frozen=True)
class HarborTask:
    """A task folder.

    Attributes:
        name: The package's name in task.toml, else the folder's.
        image: The image that task.toml names; None is one of `environment/Dockerfile`.
        settings: The content of task.toml.
    """

    folder: Path
    name: str
    instruction: str
    image: str | None
    settings: dict[str, Any]

    @property
    def environment(self) -> dict[str, Any]:
        """The table `[environment]`."""
        return self.settings.get("environment") or {}

    @property
    def verifier(self) -> dict[str, Any]:
        """The table `[verifier]`."""
        return self.settings.get("verifier") or {}

    @property
    def workdir(self) -> str | None:
        """Where commands run; None is the image's."""
        return self.environment.get("workdir")

    @property
    def dockerfile(self) -> Path | None:
        """The Dockerfile; None without one."""
        file = self.folder / "environment" / "Dockerfile"
        return file if file.is_file() else None

    def content_hash(self) -> str:
        """SHA-256 of all of the folder that decides a rollout and its verdict: the solution does not."""
        digest = hashlib.sha256()
        for name in ("task.toml", "instruction.md", "environment", "tests"):
            for place, file in files_below(self.folder / name).items():
                content = file.read_bytes()
                digest.update(f"{name}/{place} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def solution(self) -> str | None:
        """The solution as one shell command; None where there is none, or it is longer than 1 MB."""
        files = files_below(self.folder / "solution")
        script = files.pop("solve.sh", None)
        if script is None or sum(file.stat().st_size for file in (script, *files.values())) > _SOLUTION_BYTES:
            return None
        lines = [f"mkdir -p {shlex.quote(str(PurePosixPath('/solution', place).parent))} && echo {base64.b64encode(file.read_bytes()).decode()} | base64 -d > {shlex.quote(f'/solution/{place}')}" for place, file in files.items()]  # fmt: skip
        return "\n".join([*lines, script.read_text()])


def read_harbor_task(folder: Path) -> HarborTask:
    """The task of a folder. Raises FormatError for one that is none, ConfigError for one with parts that are not run here."""
    try:
        settings = tomllib.loads((folder / "task.toml").read_text())
        instruction = (folder / "instruction.md").read_text() if not settings.get("steps") else ""
    except (OSError, ValueError) as error:
        raise FormatError(f"{folder} is not a task folder of Harbor: {one_line(error, 200)}.", "It needs task.toml and instruction.md.") from error  # fmt: skip
    for name in ("environment", "agent", "verifier", "task"):
        if not isinstance(settings.get(name, {}), dict):
            raise FormatError(f"{folder}/task.toml has a {name} that is no table.", "Correct it.")
    task = HarborTask(
        folder,
        (settings.get("task") or {}).get("name") or folder.name,
        _without_canary(instruction),
        (settings.get("environment") or {}).get("docker_image"),
        settings,
    )
    others = unsupported(task)
    if others:
        raise ConfigError(f"The task {task.name} has {', '.join(others)}, which is not run here.", "Leave the task out of the folder.")  # fmt: skip
    if not (folder / "tests" / "test.sh").is_file():
        raise FormatError(f"{folder} has no tests/test.sh.", "A task is judged by it.")
    return task


def unsupported(task: HarborTask) -> list[str]:
    """What the task has that is not run here."""
    own, verifier = task.environment, task.verifier
    found = {
        "several steps": bool(task.settings.get("steps")),
        "several containers": any((task.folder / "environment" / f"docker-compose.{end}").exists() for end in ("yaml", "yml")),
        "MCP servers": bool(own.get("mcp_servers")),
        "a GPU": bool(own.get("gpus") or own.get("tpu")),
        "another system than Linux": str(own.get("os", "linux")).lower() != "linux",
        "a list of allowed hosts": "allowlist" in (own.get("network_mode"), verifier.get("network_mode")),
        "a verifier in another container": verifier.get("environment_mode") == "separate" or "environment" in verifier,
        "prior messages": (task.folder / "trajectory.json").exists(),
    }  # fmt: skip
    return [name for name, has in found.items() if has]


def plain_image(task: HarborTask) -> PlainImage:
    """What the environment of the task is without an image."""
    if task.image is not None:
        return PlainImage(hindrance=f"the image {task.image}")
    own = dict(variables_of(task.environment.get("env")))
    if task.dockerfile is None:
        return PlainImage(task.workdir or "/app", own)
    workdir, variables, files = "/", {}, {}
    for line in _instructions(task.dockerfile.read_text()):
        word, _, rest = line.partition(" ")
        word = word.upper()
        if word == "WORKDIR":
            workdir = str(PurePosixPath(workdir, rest.strip().strip("\"'")))
        elif word == "ENV":
            variables.update(_variables(rest))
        elif word in ("COPY", "ADD") and (copied := _copied(task.dockerfile.parent, workdir, rest)) is not None:
            files.update(copied)
        elif word not in _IGNORED:
            return PlainImage(hindrance=f"an image for `{one_line(line, 60)}` of its Dockerfile")
    return PlainImage(task.workdir or workdir, variables | own, files)


def variables_of(given: Mapping[str, str] | None) -> dict[str, str]:
    """Variables of a table `env`: `${NAME}` and `${NAME:-default}` are those of this process. Raises ConfigError for one that is not set."""
    found = {}
    for name, value in (given or {}).items():
        template = _TEMPLATE.fullmatch(str(value))
        if template is not None and template[2] is None and template[1] not in os.environ:
            raise ConfigError(f"The environment variable {template[1]} of the task is not set.", "Set it.")
        found[name] = str(value) if template is None else os.environ.get(template[1], template[2] or "")
    return found


def files_below(place: Path) -> dict[str, Path]:
    """The regular files of a folder by their relative path, sorted; of a file itself, under "". Links that leave the folder are left out."""
    if place.is_file():
        return {"": place}
    inside = place.resolve()
    files = sorted(file for file in place.rglob("*") if file.is_file() and file.resolve().is_relative_to(inside))
    return {file.relative_to(place).as_posix(): file for file in files}


def _without_canary(text: str) -> str:
    """The text without the marker lines at its beginning that keep benchmarks out of training data."""
    lines = text.split("\n")
    at = 0
    while at < len(lines) and _CANARY.fullmatch(lines[at].strip()):
        at += 1
    return "\n".join(lines[at:]).lstrip("\n") if at else text


def _instructions(text: str) -> list[str]:
    """The instructions of a Dockerfile, each on one line."""
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [line.strip() for line in re.sub(r"\\\s*\n", " ", plain).splitlines() if line.strip()]


def _variables(text: str) -> dict[str, str]:
    """`NAME=value …` and `NAME value`."""
    parts = shlex.split(text)
    if parts and "=" not in parts[0]:
        return {parts[0]: " ".join(parts[1:])}
    return dict(part.split("=", 1) for part in parts if "=" in part)


def _copied(context: Path, workdir: str, text: str) -> dict[str, Path] | None:
    """The files of a COPY by their place in the image; None for one with options, addresses or files that are not there."""
    try:
        parts = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError:
        return None
    if len(parts) < 2 or any(part.startswith("--") or "://" in part or "$" in part for part in parts):
        return None
    *sources, target = parts
    found: dict[str, Path] = {}
    for source in sources:
        pattern = source.lstrip("/")
        places = [context] if pattern in (".", "./", "") else sorted(context.glob(pattern))
        if not places:
            return None
        for place in places:
            into = PurePosixPath(workdir, target)
            if place.is_file() and (target.endswith(("/", ".")) or len(sources) + len(places) > 2):
                into = into / place.name
            found |= {str(into / relative if relative else into): file for relative, file in files_below(place).items()}
    return found
