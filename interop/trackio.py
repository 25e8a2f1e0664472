"""trackio's traces: conversations that trainers log, in a project's SQLite database, in `…_traces.parquet` or a Space's `aux/traces.parquet`.

Messages and metadata are JSON text. Trainers log a few conversations a step, and text alone.
"""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import FormatError
from ..store.reading import MessageReader, split_prompt
from ..store.tool_schemas import read_tools
from .lines import Line, Quarantine
from .parquet_files import read_parquet
from .rewards import REWARDS, verdict
from .rollout import FileRollout, Row, unread_fields
from .sample import FileSample
from .storing import Source
from .values import read_json

_FORMAT = "trackio"


def signs(sample: FileSample) -> str | None:
    """A database with traces, or rows of that table."""
    if sample.kind == "sqlite" and "traces" in _tables(sample.path):
        return "it is a database with the table traces"
    if sample.have("messages", "metadata", "run_name", "trace_index"):
        return "its rows are traces (messages, metadata, run_name, trace_index)"
    return None


def _tables(path: Path) -> list[str]:
    with sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True) as base:
        return [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The traces of a file. Raises FormatError for a database without any."""
    if path.suffix == ".parquet":
        yield from read_parquet(path, quarantine, on_progress)
        return
    try:
        with sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True) as base:
            base.row_factory = sqlite3.Row
            for number, row in enumerate(base.execute("SELECT * FROM traces ORDER BY rowid"), start=1):
                # trackio stores JSON as bytes.
                texts = [
                    (name, value.decode("utf-8") if isinstance(value, bytes) else value)
                    for name, value in dict(row).items()
                ]
                yield Line(number, "", False, number, path), dict(texts)
    except sqlite3.DatabaseError as error:
        raise FormatError(
            f"{path} cannot be read: {error}.", "Name a database of trackio, with the table traces."
        ) from error


def read(row: Row, source: Source) -> list[FileRollout]:
    """One trace. Of its metadata the reward is the verdict; the rest is kept."""
    metadata = _read(row.get("metadata"))
    told: Row = metadata if isinstance(metadata, dict) else {}
    tools = read_tools(told.get("tools"))
    reader = MessageReader(tools=tools)
    prompt, messages = split_prompt(reader.read(row["messages"]))
    rollout = FileRollout(prompt, tools, messages, gaps=reader.gaps, unread=reader.unread, untrained=reader.untrained)
    rollout.source_run, rollout.source_key = row.get("run_id") or row.get("run_name"), row.get("id")
    rollout.group_key = row.get("step")
    rollout.columns = {
        "step": row.get("step"),
        "policy_id": told.get("model"),
        "started_at": _time(row.get("timestamp")),
        **verdict(told, source.reward_columns),
    }
    rest = {name: value for name, value in told.items() if name not in {*REWARDS, *source.reward_columns, "model", "tools"}}  # fmt: skip
    more = {name: row[name] for name in ("run_name", "key") if row.get(name)}
    spans = _read(row.get("spans"))
    rollout.extra = {_FORMAT: {**more, **({"metadata": rest} if rest else {}), **({"spans": spans} if spans else {})}}
    rollout.gaps |= unread_fields({"spans": spans, **{f"metadata.{name}": value for name, value in rest.items()}}, {"metadata.advantage"})  # fmt: skip
    return [rollout]


def _read(value: Any) -> Any:
    return read_json(value) if isinstance(value, str) else value


def _time(text: Any) -> datetime | None:
    parsed = datetime.fromisoformat(text) if isinstance(text, str) else None
    return parsed.replace(tzinfo=UTC) if parsed is not None and parsed.tzinfo is None else parsed
