"""The folder in memory that weights travel through."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ....policies.engines.folders import owned_folder

PREFIX = "rollhouse-weights-"


@contextmanager
def weights_folder() -> Iterator[Path]:
    """A folder in memory (tmpfs) where there is one, removed at the end; those that killed runs left behind are removed at its start."""
    base = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    folder, lock = owned_folder(PREFIX, base)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
