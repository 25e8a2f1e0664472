"""The version of a store's format, in `_store.json` of its folder. A store without the file is of version 1; object stores have none.

It rises when an older rollhouse could misread what a newer one writes. A new nullable column is no such change.
"""

import json
import os
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from ..base.errors import DamagedStore, StoreTooNew

FORMAT = 1


def check(uri: str) -> None:
    """Raises StoreTooNew for a store of a later format, DamagedStore when the file cannot be read."""
    if "://" in uri:
        return
    try:
        found = json.loads((Path(uri) / "_store.json").read_text(encoding="utf-8"))
        number, by = int(found["format"]), str(found.get("rollhouse", "unknown"))
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedStore(f"{uri}/_store.json cannot be read.", 'It holds {"format": N}; restore it.') from error
    if number > FORMAT:
        raise StoreTooNew(
            f"The store {uri} has format {number}, written by rollhouse {by[:40]}; this rollhouse reads formats up to {FORMAT}.",
            f"Install rollhouse {by[:40]} or later.",
        )


def write(uri: str) -> None:
    """Writes the file where it is missing."""
    path = Path(uri) / "_store.json"
    if "://" in uri or path.exists():
        return
    partial = path.with_name(f"._store.{os.getpid()}")
    partial.write_text(json.dumps({"format": FORMAT, "rollhouse": installed()}) + "\n", encoding="utf-8")
    os.replace(partial, path)


def installed() -> str:
    """The version of rollhouse that runs."""
    try:
        return version_of("rollhouse")
    except PackageNotFoundError:
        return "unknown"
