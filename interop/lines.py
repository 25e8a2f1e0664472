"""JSON Lines: reading what somebody else wrote, where a bad line is set aside with its number and reason, and writing."""

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ..base.errors import ConfigError, FormatError
from ..base.json_text import to_json
from .files import begins_over_lines, json_values, load_json, opened, text_of_bytes


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: From 1.
        torn: Whether it is the last one and lacks its newline: its writer may not have finished it.
        end: Bytes of the file up to and including this line.
        source: The file.
        replaced: Whether bytes or escapes that are not text became U+FFFD.
    """

    number: int
    text: str
    torn: bool
    end: int
    source: Path
    replaced: bool = False


_NOT_JSON = "it is not JSON"


class BadLine(ValueError):
    """A line is not what its format says; the text is the reason."""


class Quarantine:
    """Where bad lines go. The file is made when the first one comes.

    Attributes:
        count: How many came.
        passed_over: Entries that belong to no record of the file, by name, which the summary counts.
        torn: How often the last line was not finished (0 or 1 a file); such a line is left out, not set aside.
    """

    def __init__(self, path: Path, strict: bool = False, redact: Callable[[str], str] | None = None) -> None:
        """`redact` replaces secrets in the lines that are set aside."""
        self.path = path
        self._redact = redact
        self.count = 0
        self.torn = 0
        self.passed_over: Counter[str] = Counter()
        self._strict = strict

    def add(self, line: Line, reason: str) -> None:
        """Sets a line aside. Raises FormatError instead when strict."""
        if self._strict:
            raise FormatError(
                f"Line {line.number} of {line.source}: {reason}.", "Correct it, or leave out --strict to set it aside."
            )
        self.count += 1
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self._redact(line.text) if self._redact else line.text
        entry = {"source": str(line.source), "line": line.number, "reason": reason, "text": text}
        with self.path.open("w" if self.count == 1 else "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file that are not blank, one at a time; `.gz` and `.zst` files are decompressed.

    Raises FormatError when there is no such file, and for one that is not UTF-8 or whose compressed data is incomplete.
    """
    with opened(path) as (file, position):
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield Line(number, text_of_bytes(raw), not raw.endswith(b"\n"), position(), path)


def read_objects(
    path: Path, quarantine: Quarantine | None, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, dict[str, Any]]]:
    """The JSON objects of a file with the lines they stand on; a torn last line is left out, other bad ones are set aside.

    A file that is one JSON array, or an object over several lines, is read as the objects it holds; `Line.number` is then the object's.

    Args:
        quarantine: Where bad lines go; None passes over them.
        on_progress: Gets the bytes read so far, after each line was dealt with.
    """
    for line in _read_values(path) if begins_over_lines(path) else read_lines(path):
        value, replaced, reason = _object(line)
        if value is not None:
            yield (line if not replaced else replace(line, replaced=True)), value
        elif quarantine is not None:
            if line.torn and reason.startswith(_NOT_JSON):
                quarantine.torn += 1
            else:
                quarantine.add(line, reason)
        if on_progress:
            on_progress(line.end)


def _read_values(path: Path) -> Iterator[Line]:
    for number, (text, end) in enumerate(json_values(path), start=1):
        yield Line(number, text, False, end, path)


def _object(line: Line) -> tuple[dict[str, Any] | None, bool, str]:
    """The object, whether halves of characters in it were replaced, and what is wrong without one."""
    try:
        value, replaced = load_json(line.text)
    except (ValueError, ArithmeticError, RecursionError) as error:
        return None, False, f"{_NOT_JSON} ({error})"
    return (value, replaced, "") if isinstance(value, dict) else (None, False, "it is not a JSON object")


def partial_path(path: Path) -> Path:
    """A new name beside a file for what is written and not complete yet; two writers of one file have two. Raises ConfigError for a folder."""
    if not path.name or path.is_dir():
        raise ConfigError(f"{path} is a folder.", "Name a file.")
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[str]]:
    """A text file that has its name only once it is complete; when writing fails nothing is left."""
    with whole_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """The path to write to, which gets its name once the file is complete; when writing fails nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_objects(records: Iterable[dict[str, Any]], path: Path) -> None:
    """One JSON object a line."""
    with whole_file(path) as file:
        for record in records:
            file.write(to_json(record) + "\n")
