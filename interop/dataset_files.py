"""Rows of datasets: JSON Lines, JSON, Parquet, CSV, or a dataset of the hub through `datasets`."""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, FormatError
from .files import opened, text_or_mark
from .lines import Line, Quarantine, read_objects
from .parquet_files import read_parquet
from .places import HUB, is_hub
from .rollout import Row

_HUB = re.compile(r"hf:(?P<name>[^:@]+)(?::(?P<config>[^@]+))?(?:@(?P<split>.+))?")


def records(
    path: Path, quarantine: Quarantine | None, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The rows of a file, by its suffix, or of `hf:OWNER/NAME[:CONFIG][@SPLIT]`."""
    if is_hub(path):
        for number, row in enumerate(hub_rows(str(path)), start=1):
            yield Line(number, "", False, number, path), row
            if on_progress:
                on_progress(number)
    elif path.suffix == ".parquet":
        yield from read_parquet(path, quarantine, on_progress)
    elif is_csv(path):
        yield from read_csv(path, quarantine, on_progress)
    else:
        yield from read_objects(path, quarantine, on_progress)


def hub_rows(name: str) -> Iterator[Row]:
    """The rows of a dataset of the hub, streamed. Raises ConfigError without `datasets`, FormatError when it cannot be opened."""
    found = _HUB.fullmatch(name)
    if found is None:
        raise ConfigError(
            f"{name!r} names no dataset.", f"Write {HUB}OWNER/NAME, {HUB}OWNER/NAME:CONFIG or {HUB}OWNER/NAME@SPLIT."
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            "The package datasets is not installed.", "Install it with `pip install datasets`."
        ) from error
    try:
        rows: Any = load_dataset(found["name"], found["config"], split=found["split"] or "train", streaming=True)
        for row in rows:
            yield dict(row)
    except (ValueError, OSError) as error:
        raise FormatError(
            f"{name} cannot be read: {error}", "Check the name, the configuration and the split."
        ) from error


def is_csv(path: Path) -> bool:
    """Whether the file's name ends in .csv or .tsv, compressed or not."""
    return bool({".csv", ".tsv"} & set(path.suffixes[-2:]))


def read_csv(
    path: Path, quarantine: Quarantine | None = None, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The rows of a CSV or TSV file with a heading, every value a text and None for an empty one; a line's number is the row's, from 1.

    A row with more values than the heading has names is set aside.
    """
    from io import TextIOWrapper

    csv.field_size_limit(1 << 30)
    tabs = ".tsv" in path.suffixes
    with opened(path) as (raw, _), TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:  # fmt: skip
        for number, row in enumerate(csv.DictReader(file, delimiter="\t" if tabs else ","), start=1):
            surplus = row.pop(None, None)  # type: ignore[call-overload]
            found = {name: text_or_mark(value) for name, value in row.items()}
            line = Line(number, "", False, number, path, replaced=any(is_marked for _, is_marked in found.values()))
            if surplus is None:
                yield line, {name: value or None for name, (value, _) in found.items() if name}
            elif quarantine is not None:
                quarantine.add(line, f"it has {len(row) + len(surplus)} values, and the heading has {len(row)} names")
            if on_progress and number % 64 == 0:
                on_progress(number)
