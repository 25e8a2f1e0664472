"""Environments by name, and the tasks of a split."""

from itertools import islice
from pathlib import Path
from typing import Any

from ...store.errors import ConfigError
from ..types import Environment, Task

NAMES = ("workplace", "workplace-mini")


def load_environment(
    name: str,
    tables: str | Path | None = None,
    tasks: str | Path | None = None,
    seed: int | None = 0,
    tasks_split: str | None = None,
    **options: Any,
) -> Environment:
    """The environment of that name. Raises ConfigError for an unknown name or a missing file.

    Args:
        tables: Folder of the environment's tables, where it has any.
        tasks: Tasks file, for an environment that does not generate its own.
        seed: Seed of generated tasks; None is 0.
        tasks_split: Split of the tasks file's rows that name none; None is train.
        options: Further arguments of the environment's constructor.
    """
    if name == "workplace":
        from .workplace import WorkplaceEnvironment

        places = (None if place is None else Path(place) for place in (tables, tasks))
        return WorkplaceEnvironment(*places, tasks_split=tasks_split or "train", **options)
    if name == "workplace-mini":
        from .workplace_mini import MiniEnvironment

        return MiniEnvironment(seed=seed or 0, **options)
    raise ConfigError(f"There is no environment {name!r}.", f"Environments are {', '.join(NAMES)}.")


def tasks_of(environment: Environment, split: str, limit: int | None = None) -> list[Task]:
    """The tasks of a split, at most `limit` of them. Raises ConfigError when it has none."""
    tasks = list(islice(environment.tasks(split), limit))
    if not tasks:
        raise ConfigError(
            f"{environment.name} has no task in split {split!r}.",
            "Rows of a tasks file that name no split are of train: take them with `--split train`, "
            f"or say that the file is of this one with `--tasks-split {split}`.",
        )
    return tasks
