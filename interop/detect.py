"""Which format a file has, by its first records, and the reason."""

from dataclasses import dataclass
from pathlib import Path

from ..base.errors import FormatError
from .formats import FORMATS
from .sample import FileSample, sample_of

# The formats that read a whole folder.
_FOLDERS = {"prime-rl", "atif", "claude-code", "codex", "inspect", "slime", "langfuse", "verl", "tau2"}


@dataclass(frozen=True)
class Found:
    """A file's format and the reason for it."""

    format: str
    why: str


def detect(path: Path, mapped: bool = False) -> Found:
    """The format of a file, a folder or a dataset of the hub.

    Args:
        mapped: Whether the user said with `--map` which column is which.

    Raises FormatError, which lists the keys that were seen, when no format fits.
    """
    if mapped:
        return Found("columns", "--map names its columns")
    sample = sample_of(path)
    for name, format in FORMATS.items():
        if sample.kind == "folder" and name not in _FOLDERS:
            continue
        why = format.signs(sample) if format.signs else None
        if why:
            return Found(name, why)
    raise FormatError(
        f"The format of {path} is not known: {_shown(sample)}.",
        "Name the format (`rollhouse import FORMAT FILE`) or the columns (`--map messages=COLUMN,reward=COLUMN`).",
    )


def _shown(sample: FileSample) -> str:
    if sample.members:
        return f"it holds {', '.join(sample.members[:8])}"
    if not sample.rows:
        return "it holds no records"
    return f"its records have the keys {', '.join(sorted({key for row in sample.rows for key in row}))}"
