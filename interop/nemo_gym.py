"""Importing the rollouts that NeMo Gym wrote."""

from pathlib import Path
from typing import Any

from ..store.lance_store import LanceStore
from .importing import ImportSummary, import_file

__all__ = ["ImportSummary", "import_nemo_gym"]


def import_nemo_gym(store: LanceStore, path: str | Path, **options: Any) -> ImportSummary:
    """`import_file` for result rows of NeMo Gym and the failures beside them."""
    return import_file(store, "nemo-gym", path, **options)
