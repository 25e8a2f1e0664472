"""Sources of tasks: a file, or a data set of the hub."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import ConfigError, FormatError
from ..policies.hub import hub_folder

HUB = "hf:"
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")
SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "test": "test"}  # fmt: skip
"""What data sets call their splits, and what we do."""


@dataclass(frozen=True)
class TasksFile:
    """A file and the split of its rows that name none."""

    path: Path
    split: str


def tasks_sha256(tasks: str | Path) -> str:
    """Hash of the content of a tasks file of any environment, or of all files of `hf:…`, for a run's configuration."""
    paths = [file.path for file in task_files(tasks)] if str(tasks).startswith(HUB) else [Path(tasks)]
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def task_files(tasks: str | Path, split: str = "train") -> list[TasksFile]:
    """The files that hold the tasks. Raises ConfigError when there are none."""
    if str(tasks).startswith(HUB):
        return _hub_files(str(tasks), split)
    path = Path(tasks)
    if not path.is_file():
        raise FormatError(f"There is no tasks file {path}.", "Check the path given with --tasks.")
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"The tasks file {path} is neither JSON lines nor Parquet.", f"Its name ends in {', '.join(_SUFFIXES)}.")  # fmt: skip
    return [TasksFile(path, split)]


def _hub_files(tasks: str, split: str) -> list[TasksFile]:
    match = re.fullmatch(r"hf:([^@:]+/[^@:]+)(?:@([^:]+))?(?::(.+))?", tasks)
    if match is None:
        raise ConfigError(f"{tasks!r} names no data set of the hub.", "Write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME:SPLIT.")  # fmt: skip
    name, revision, wanted = match.groups()
    folder = hub_folder(name, "dataset", revision)
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".jsonl", ".ndjson", ".parquet"))
    chosen = [path for path in found if wanted is None or _is_named(path.relative_to(folder), wanted)]
    # One folder is one configuration of a data set; several are not mixed.
    folders = sorted({path.parent.relative_to(folder).as_posix() for path in chosen})
    if len(folders) != 1:
        names = ", ".join(sorted({_stem(path.relative_to(folder)) for path in found})) or "none"
        problem = "has no such files" if not folders else "holds several data sets"
        raise ConfigError(f"{tasks} {problem}.", f"Name one of its parts after a colon: {names}.")
    return [TasksFile(path, SPLIT_NAMES.get(_stem(path).split("/")[-1], split)) for path in chosen]


def _stem(path: Path) -> str:
    """`main/test-00000-of-00001.parquet` → `main/test`."""
    return re.sub(r"[-.]\d+-of-\d+$", "", path.with_suffix("").as_posix())


def _is_named(path: Path, wanted: str) -> bool:
    stem = _stem(path)
    return wanted in (stem, stem.split("/")[-1], path.as_posix()) or stem.startswith(wanted + "/")
