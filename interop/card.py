"""The dataset card beside a file of TRL's: what it holds, where that came from, and what is missing."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from ..base.errors import ConfigError
from .lines import whole_file

# By this line a card is known as ours, and may be replaced.
_OURS = "# Written by `rollhouse export`."
_DTYPES = {pa.string(): "string", pa.bool_(): "bool", pa.float32(): "float32"}
WITH_CARD = ("trl", "trl-messages", "trl-prompt", "trl-kto")


def card_path(format_name: str, path: Path) -> Path:
    """Where the card of a file goes.

    Raises ConfigError for a format that has none, or when a README.md that somebody else wrote stands there.
    """
    if format_name not in WITH_CARD:
        raise ConfigError(f"Files of {format_name} have no card.", f"Formats with one are {', '.join(WITH_CARD)}.")
    card = path.with_name("README.md")
    if card.exists() and not is_ours(card):
        raise ConfigError(f"{card} is no card of ours.", "Export into a folder of its own.")
    return card


def is_ours(card: Path) -> bool:
    """Whether an export wrote the card."""
    return _OURS in card.read_text(encoding="utf-8", errors="replace")


def write_card(
    card: Path, file: Path, schema: pa.Schema, source: Mapping[str, object], left_out: Mapping[str, int], lost: Mapping[str, int]
) -> None:  # fmt: skip
    """Writes a card that hubs and `datasets.load_dataset(folder)` read.

    Args:
        schema: The columns, which the card declares: the first rows of a JSONL file need not show what later ones hold.
        source: What the file holds and where it came from, by name; None is left out.
        left_out, lost: As in `ExportSummary`.
    """
    told = [f"| {name} | {_cell(value)} |" for name, value in source.items() if value is not None]
    lines = [
        "---", _OURS, "configs:", "- config_name: default", f"  data_files: {json.dumps(file.name)}",
        "dataset_info:", "  features:", *_features(schema, "  "), "---", "",
        f"# {file.stem}", "", "| what | value |", "| --- | --- |", *told,
        *_counts("Left out", "reason", left_out),
        *_counts("In the store and not in this file", "column", lost),
    ]  # fmt: skip
    with whole_file(card) as out:
        out.write("\n".join(lines) + "\n")


def _features(fields: Iterable[pa.Field], indent: str) -> list[str]:
    """The columns in YAML as `datasets` writes them."""
    lines = []
    for field in fields:
        type, is_json = field.type, b"ARROW:extension:name" in (field.metadata or {})
        lines.append(f"{indent}- name: {field.name}")
        if pa.types.is_list(type):
            lines += [f"{indent}  list:", *_features(list(type.value_type), f"{indent}  ")]
        elif pa.types.is_struct(type):
            lines += [f"{indent}  struct:", *_features(list(type), f"{indent}  ")]
        else:
            lines.append(f"{indent}  dtype: {'json' if is_json else _DTYPES[type]}")
    return lines


def _counts(title: str, name: str, counts: Mapping[str, int]) -> list[str]:
    rows = [f"| {_cell(key)} | {count:,} |" for key, count in counts.items()]
    return ["", f"## {title}", "", f"| {name} | rollouts |", "| --- | ---: |", *rows] if rows else []


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")
