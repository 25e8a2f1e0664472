"""The record a rollout was imported from, for an export to the same format."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .overlay import SAME, difference, lay_over
from .rollout import FileRollout, Row


def source_record(record: Callable[[list[FileRollout]], Row], rollouts: Sequence[FileRollout], overlay: Any) -> Row:
    """The source's record as it was, except for what another scorer's verdict changes in it.

    Args:
        record: The format's record of the rollouts of one source record, from their columns alone.
        overlay: What the import kept of the source's record beyond that.
    """
    # The overlay was made over the verdict of collection time and may hold parts of it, such as a reward of 64 bits.
    told = record([replace(rollout, columns=rollout.columns | (rollout.collected or {})) for rollout in rollouts])
    source = lay_over(told, overlay)
    change = difference(told, record(list(rollouts)))
    return source if change is SAME else lay_over(source, change)
