"""What a user may pass where an id is wanted: the id itself, or an object that carries it."""

from typing import Any


def run_id_of(run: Any) -> str:
    """The run id of a string, or of anything with a `run_id` (a run handle, a summary). Raises TypeError for anything else."""
    if isinstance(run, str):
        return run
    found = getattr(run, "run_id", None)
    if isinstance(found, str):
        return found
    raise TypeError(f"expected a run id or an object with a run_id, got {type(run).__name__}")


def id_of(thing: Any) -> str:
    """The id that `lineage` accepts for a string, a run, a dataset version (NAME@VERSION), a checkpoint or a rollout."""
    for name in ("label", "checkpoint_id", "rollout_id", "run_id"):
        found = getattr(thing, name, None)
        if isinstance(found, str):
            return found
    return run_id_of(thing)
