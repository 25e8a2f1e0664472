"""Where checkpoints lie. The table holds paths relative to the store, and no path of a row is opened or deleted on its word.

A checkpoint's folder holds a mark file that names the checkpoint and the run that wrote it. Only a folder with that mark is the checkpoint of a row,
so a crafted row names nothing else, and a store that is moved or copied finds its own checkpoints.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import StoreNotFound
from .ids import hash_id
from .lance_store import LanceStore
from .runs import get_run

MARK = "rollhouse.json"
"""File in a checkpoint's folder that names the run that wrote it."""


def identity_of(store: LanceStore, run_id: str) -> str:
    """12 hex digits that identify a run across stores. A resumed run and a moved store keep them; two runs of one name in two stores differ.

    Raises StoreNotFound for an unknown run.
    """
    return hash_id(run_id, get_run(store, run_id)["started_at"].timestamp())[:12]


def own_folder(store: LanceStore) -> Path | None:
    """The folder of the store's own checkpoints, absolute; None for an object store, which has none."""
    return None if "://" in store.uri else Path(store.uri).resolve() / "checkpoints"


def stored_path(store: LanceStore, folder: Path) -> str:
    """How the table names a checkpoint's folder: relative to the store when it lies in it, else absolute."""
    if "://" not in store.uri and folder.resolve().is_relative_to(root := Path(store.uri).resolve()):
        return folder.resolve().relative_to(root).as_posix()
    return str(folder.resolve())


def shown_path(store: LanceStore, row: Mapping[str, Any]) -> str:
    """The absolute path that a row of `checkpoints` names, for people. Open `located` instead."""
    return row["path"] if "://" in store.uri else str(Path(store.uri).resolve() / row["path"])


def located(store: LanceStore, row: Mapping[str, Any]) -> Path | None:
    """The folder of a checkpoint, absolute; None when no folder with its mark is where the row or the store's layout has it.

    The store's own folder is looked at first: a copied store has its own checkpoints. Each found folder is not a symbolic link.
    """
    try:
        identity = identity_of(store, row["run_id"])
    except StoreNotFound:
        return None
    own = own_folder(store)
    places = [] if own is None else [own / row["run_id"] / f"step_{row['step']}"]
    for place in (*places, Path(shown_path(store, row))):
        if has_mark(place, identity, row["checkpoint_id"]):
            return place
    return None


def has_mark(folder: Path, identity: str, checkpoint_id: str | None = None) -> bool:
    """Whether the folder is one that a run wrote: no link, with a mark file that names the run (and the checkpoint, when one is given)."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        named = mark["run"] == identity and checkpoint_id in (None, mark.get("checkpoint"))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False
    return named and not folder.is_symlink()


def remove_marked(folder: Path, inside: Path, identity: str) -> bool:
    """Deletes a folder that lies directly in `inside`, the folder of a run's checkpoints, and has the run's mark. Returns whether it did."""
    if not has_mark(folder, identity) or folder.resolve().parent != inside.resolve():
        return False
    shutil.rmtree(folder)
    return True
