"""What can go wrong, named after the situation. The command line prints `message` and `fix` and exits with `exit_code`."""

import asyncio
from typing import Any


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


def one_line(said: object, limit: int = 500) -> str:
    """A message of any length and number of lines as one short line."""
    return " ".join(str(said).split())[:limit]


def interrupted(error: BaseException) -> bool:
    """Whether the work was stopped from outside and did not fail by itself.

    A Ctrl-C that arrives while native code calls back into Python comes out as that library's own error, which only names it.
    """
    return isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)) or (
        not isinstance(error, RollhouseError) and "KeyboardInterrupt" in str(error)
    )


class StoreNotFound(RollhouseError):
    """There is no store, table or run of that name."""

    exit_code = 2


class VersionNotFound(RollhouseError):
    """There is no snapshot of that name, or no version that old."""

    exit_code = 2


class ConfigError(RollhouseError):
    """A setting, an argument or a recipe is wrong."""

    exit_code = 2


class FormatError(RollhouseError):
    """A file or a row is not what its format says."""

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
    """A query that is not SQL, asks for what is not there, or does more than read."""

    exit_code = 2


class WriteConflict(RollhouseError):
    """Another writer holds the run, or took it over."""


class EngineError(RollhouseError):
    """A generation engine failed, or its weights are not the learner's.

    Attributes:
        retries: How often the request was sent again.
        summary: What had come of a collection by then, a CollectSummary; None elsewhere.
    """

    retries = 0
    summary: Any = None


class TrainingError(RollhouseError):
    """Training cannot go on: a non-finite loss, an empty batch, a checkpoint that cannot be written."""


class EvaluationError(RollhouseError):
    """An evaluation cannot go on: its checkers do not start or are out of time."""
