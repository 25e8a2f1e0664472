"""Temporary folders with an owner: a folder of a killed process is known by its lock, which no process holds."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

_OWNER = "owner"


def owned_folder(prefix: str, base: Path) -> tuple[Path, IO[str]]:
    """A new folder in `base` and the lock on it, held until it is closed or this process ends. Abandoned folders are removed first."""
    remove_left_behind(prefix, base)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    owner = open(folder / _OWNER, "w")  # noqa: SIM115
    fcntl.flock(owner, fcntl.LOCK_EX)
    return folder, owner


def remove_left_behind(prefix: str, base: Path) -> list[Path]:
    """Removes this user's folders whose owner was killed, and returns them."""
    removed = []
    for owner in base.glob(f"{prefix}*/{_OWNER}"):
        try:
            if owner.stat().st_uid != os.getuid():
                continue
            with open(owner, "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
                removed.append(owner.parent)
        except OSError:  # in use, or removed in the meantime
            continue
    return removed
