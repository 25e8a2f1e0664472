"""Environments by name, and the tasks of a split."""

import hashlib
from itertools import islice
from pathlib import Path
from typing import Any

from ...store.errors import ConfigError
from ..types import Environment, Task

NAMES = ("workplace", "workplace-mini", "math")
_FORMS = "FILE.py[:CLASS], nemo-gym:URL and verifiers:ENVIRONMENT"


def load_environment(
    name: str,
    /,
    tables: str | Path | None = None,
    tasks: str | Path | None = None,
    seed: int | None = 0,
    tasks_split: str | None = None,
    **options: Any,
) -> Environment:
    """The environment of that name. Raises ConfigError for an unknown name or a missing file.

    Args:
        name: One of NAMES; `FILE.py` or `FILE.py:Class`, a class of one's own; `nemo-gym:URL`, a running NeMo Gym resources server;
            `verifiers:ENVIRONMENT`, an environment of the verifiers package.
        tables: Folder of the environment's tables, where it has any.
        tasks: Tasks file, for an environment that does not generate its own.
        seed: Seed of generated tasks; None is 0.
        tasks_split: Split of the tasks file's rows that name none; None is train.
        options: Further arguments of the environment's constructor.
    """
    split = tasks_split or "train"
    kind, _, rest = name.partition(":")
    if name == "workplace":
        from .workplace import WorkplaceEnvironment

        places = (None if place is None else Path(place) for place in (tables, tasks))
        return WorkplaceEnvironment(*places, tasks_split=split, seed=seed or 0, **options)
    if name == "workplace-mini":
        from .workplace_mini import MiniEnvironment

        return MiniEnvironment(seed=seed or 0, **options)
    if name == "math":
        from .math import MathEnvironment

        return MathEnvironment(tasks=tasks, seed=seed or 0, tasks_split=split, **options)
    if kind == "nemo-gym":
        from .adapters.nemo_gym import NemoGymEnvironment

        return NemoGymEnvironment(rest, tasks, tasks_split=split, **options)
    if kind == "verifiers":
        from .adapters.verifiers import VerifiersEnvironment

        return VerifiersEnvironment(rest, **options)
    if (own := own_file(name)) is not None:
        from .own import load_own

        return load_own(*own, options, tables=tables, tasks=tasks, seed=seed or 0, tasks_split=split)
    raise ConfigError(f"There is no environment {name!r}.", f"Environments are {', '.join(NAMES)}, {_FORMS}.")


def own_file(name: str) -> tuple[Path, str | None] | None:
    """The file and the class (None: its only one) when the name is one of a file; None when it is another."""
    if name.endswith(".py"):
        return Path(name), None
    file, _, class_name = name.rpartition(":")
    return (Path(file), class_name) if file.endswith(".py") else None


def environment_hash(name: str) -> str | None:
    """SHA-256 of the file of an environment of one's own, for a run's configuration; None for other environments and a missing file.

    What the file imports is not in it.
    """
    own = own_file(name)
    return hashlib.sha256(own[0].read_bytes()).hexdigest() if own is not None and own[0].is_file() else None


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
