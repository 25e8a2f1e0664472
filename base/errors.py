"""The errors of rollhouse. The command line prints `message` and `fix` and exits with `exit_code`."""

import asyncio
import re
from typing import Any

from .redaction import redacted
from .terminal import visible

# Lance puts the kind of the error before its words, and the place in its own source behind them.
_OF_LANCE = re.compile(r"(?:\blance error: )?\bLanceError\(\w+\): |,? ?(?:\bat )?/\S+\.rs:\d+(?::\d+)?")


class RollhouseError(Exception):
    """One sentence on what is wrong and where, one on what to do. Picklable: it crosses Ray processes.

    `exit_code` is 1 when an operation failed and 2 when the request itself was wrong.
    """

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


def one_line(text: object, limit: int = 500) -> str:
    """A message as one line of at most `limit` characters: control characters are shown, keys, passwords and places in Lance's source are not."""
    return redacted(visible(_OF_LANCE.sub("", " ".join(str(text).split()))))[:limit]


def interrupted(error: BaseException) -> bool:
    """Whether the work was stopped from outside rather than failed.

    A Ctrl-C that arrives while native code calls back into Python becomes that library's own error, whose text names it.
    """
    return isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)) or (
        not isinstance(error, RollhouseError) and "KeyboardInterrupt" in str(error)
    )


class StoreNotFound(RollhouseError):
    """No store, table or run has that name."""

    exit_code = 2


class DamagedStore(RollhouseError):
    """A table is there and cannot be opened."""


class StoreTooNew(RollhouseError):
    """A later version of rollhouse made the store."""

    exit_code = 2


class VersionNotFound(RollhouseError):
    """No snapshot has that name, or no version is that old."""

    exit_code = 2


class ConfigError(RollhouseError):
    """A setting, an argument or a recipe is wrong."""

    exit_code = 2


class FormatError(RollhouseError):
    """A file or a row does not have its format."""

    exit_code = 2


class EvalLeak(RollhouseError):
    """Rows of validation or test tasks were about to enter a training set."""

    exit_code = 2


class EmptyDataset(RollhouseError):
    """A recipe selects nothing."""


class MissingExtra(RollhouseError):
    """A package that this command needs is not installed."""


class SchemaMismatch(RollhouseError, ValueError):
    """Rows do not fit the table they are written to."""


class QueryError(RollhouseError):
    """A query is not valid SQL, names something that does not exist, or would write."""

    exit_code = 2


class WriteConflict(RollhouseError):
    """Another writer holds the run, or took it over."""


class EngineError(RollhouseError):
    """A generation engine failed, or its weights are not the learner's.

    Attributes:
        retries: Number of times the request was sent again.
        summary: CollectSummary of the collection that failed; None elsewhere.
    """

    retries = 0
    summary: Any = None


class TrainingError(RollhouseError):
    """Training cannot go on: a non-finite loss, an empty batch, a checkpoint that cannot be written."""


class EvaluationError(RollhouseError):
    """An evaluation cannot go on: its checkers do not start or exceed their time."""
