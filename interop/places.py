"""Datasets of the hub beside files."""

from pathlib import Path

HUB = "hf:"


def is_hub(path: Path | str) -> bool:
    """Whether it names a dataset of the hub: `hf:OWNER/NAME[:CONFIG][@SPLIT]`."""
    return str(path).startswith(HUB)
