"""Reading JSON Lines that somebody else wrote: what cannot be read is set aside with its line number and reason."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..store.errors import FormatError


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: From 1.
        torn: Whether it is the last one and lacks its newline: its writer may not have finished it.
        end: Bytes of the file up to and including this line.
    """

    number: int
    text: str
    torn: bool
    end: int


class BadLine(ValueError):
    """A line is not what its format says; the text is the reason."""


class Quarantine:
    """Where bad lines go. The file is made when the first one comes.

    Attributes:
        count: How many came.
        torn: How often the last line was not finished (0 or 1 a file); such a line is left out, not set aside.
    """

    def __init__(self, path: Path, source: Path, strict: bool = False) -> None:
        self.path = path
        self.count = 0
        self.torn = 0
        self._source = source
        self._strict = strict

    def add(self, line: Line, reason: str) -> None:
        """Sets a line aside. Raises FormatError instead when strict."""
        if self._strict:
            raise FormatError(
                f"Line {line.number} of {self._source}: {reason}.", "Correct it, or leave out --strict to set it aside."
            )
        self.count += 1
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"source": str(self._source), "line": line.number, "reason": reason, "text": line.text}
        with self.path.open("w" if self.count == 1 else "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file that are not blank, one at a time. Raises FormatError when there is no such file."""
    if not path.is_file():
        raise FormatError(f"There is no file {path}.", "Check the path.")
    end = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            end += len(raw)
            if raw.strip():
                yield Line(number, raw.decode("utf-8", errors="surrogateescape"), not raw.endswith(b"\n"), end)


def read_objects(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, dict[str, Any]]]:
    """The JSON objects of a file with the lines they stand on; a torn last line is left out, other bad ones are set aside.

    Args:
        on_progress: Gets the bytes read so far, after each line was dealt with.
    """
    for line in read_lines(path):
        try:
            value = json.loads(line.text)
            line.text.encode("utf-8")
        except (ValueError, RecursionError) as error:
            if line.torn:
                quarantine.torn += 1
            else:
                quarantine.add(line, f"it is not JSON ({error})")
        else:
            if isinstance(value, dict):
                yield line, value
            else:
                quarantine.add(line, "it is not a JSON object")
        if on_progress:
            on_progress(line.end)
