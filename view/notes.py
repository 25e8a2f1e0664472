"""Which viewer runs over a store on a disk: a note in `_viewers/` of the store, which its process takes away when it ends."""

import json
import os
from pathlib import Path

from ..store.lance_store import LanceStore
from ..store.lease import runs_here, this_process

_FOLDER = "_viewers"


def leave(store: LanceStore, url: str) -> Path | None:
    """Notes that this process shows the store at `url`; None for a store that takes no note: on an object store, or read-only."""
    if "://" in store.uri:
        return None
    note = Path(store.uri) / _FOLDER / f"{os.getpid()}.json"
    try:
        note.parent.mkdir(mode=0o700, exist_ok=True)
        partial = note.with_suffix(".partial")
        partial.write_text(
            json.dumps({"url": url, "store": os.path.realpath(store.uri), **this_process()}), encoding="utf-8"
        )
        os.replace(partial, note)
    except OSError:
        return None
    return note


def running(store: LanceStore) -> str | None:
    """The address of a viewer of the store whose process of this machine is alive, None without one.

    A note that was copied with its store names the other folder and is not believed."""
    if "://" in store.uri:
        return None
    for note in sorted((Path(store.uri) / _FOLDER).glob("*.json")):
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
            url, runs = str(found["url"]), found["store"] == os.path.realpath(store.uri) and runs_here(found)
        except (OSError, ValueError, TypeError, LookupError):
            continue
        if runs:
            return url
    return None
