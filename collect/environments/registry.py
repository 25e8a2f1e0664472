"""Environments by name."""

from pathlib import Path
from typing import Any

from ...store.errors import ConfigError
from ..types import Environment

NAMES = ("workplace", "workplace-mini")


def load_environment(
    name: str, tables: str | Path | None = None, tasks: str | Path | None = None, seed: int | None = 0, **options: Any
) -> Environment:
    """The environment of that name. Raises ConfigError for an unknown name or a missing file.

    Args:
        tables: Folder of the environment's tables, where it has any.
        tasks: Tasks file, for an environment that does not generate its own.
        seed: Seed of generated tasks; None is 0.
        options: Further arguments of the environment's constructor.
    """
    if name == "workplace":
        from .workplace import WorkplaceEnvironment

        return WorkplaceEnvironment(
            Path(tables) if tables is not None else None, Path(tasks) if tasks is not None else None, **options
        )
    if name == "workplace-mini":
        from .workplace_mini import MiniEnvironment

        return MiniEnvironment(seed=seed or 0, **options)
    raise ConfigError(f"There is no environment {name!r}.", f"Environments are {', '.join(NAMES)}.")
