"""Importing the rollouts that NeMo Gym wrote."""

from pathlib import Path
from typing import Any

from ..store.house import House
from .importing import ImportSummary, import_file

__all__ = ["ImportSummary", "import_nemo_gym"]


def import_nemo_gym(house: House, path: str | Path, **options: Any) -> ImportSummary:
    """`import_file` for result rows of NeMo Gym and the failures beside them."""
    return import_file(house, "nemo-gym", path, **options)
