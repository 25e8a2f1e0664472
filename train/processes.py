"""Several processes train one model: `accelerate launch` and `torchrun` start them, the first one keeps the books."""

import os

from ..base.errors import ConfigError


def rank() -> int:
    """This process's number, from the launcher; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_name(run: str | None) -> str | None:
    """The run's name. Raises ConfigError when several processes train and none is given: they could not agree on one."""
    if run is None and world_size() > 1:
        raise ConfigError("Several processes train, and the run has no name.", "Name it with --run.")
    return run
