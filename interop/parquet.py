"""Plain Parquet: the rollouts table with its nested columns, and what each row refers to (prompt, tools, prompt tokens, task) beside it.

The only format that keeps a rollout's ids, so rollouts can move between stores, and into a store that has them already nothing is added.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from ..store.messages import Message
from ..store.reading import read_messages
from ..store.rollout import ROLLOUTS
from ..store.schema import arrow_type
from .parquet_files import write_parquet
from .rollout import FileRollout, Row, text_of, value_of
from .storing import Source

_FORMAT = "parquet"
_JSON_TASK, _PLAIN_TASK = ("ground_truth", "state", "extra"), ("split", "category", "difficulty", "source_key")
_TASK_COLUMNS = {f"task_{name}": pa.float32() if name == "difficulty" else pa.string() for name in (*_JSON_TASK, *_PLAIN_TASK)}  # fmt: skip
_REFERRED = {
    "prompt": arrow_type(list[Message]),
    "tools": pa.string(),
    "prompt_token_ids": pa.list_(pa.int32()),
    **_TASK_COLUMNS,
}
_NAMES = ROLLOUTS.schema.names
# Worked out again on the way in, from what they are made of.
_REMADE = {"messages", "gaps", "extra", "run_id", "task_id", "prompt_id"}


def schema() -> pa.Schema:
    """The file's columns: those of `rollouts`, then what they refer to."""
    columns = [pa.field(field.name, field.type) for field in ROLLOUTS.schema]
    return pa.schema(columns + [pa.field(name, type) for name, type in _REFERRED.items()])


def held(rollout: FileRollout) -> set[str]:
    """Everything."""
    tasks = {f"task.{name}" for name in (*_JSON_TASK, *_PLAIN_TASK)}
    return {*_NAMES, "prompt_token_ids", *tasks, *(f"extra.{name}" for name in rollout.extra)}


def read(row: Row, source: Source) -> list[FileRollout]:
    """One row. It needs `messages` and `prompt`; columns we do not know go to `extra`."""
    columns = {name: row[name] for name in _NAMES if name not in _REMADE and row.get(name) is not None}
    rollout = FileRollout(
        prompt=_messages(row["prompt"]),
        tools=value_of(row.get("tools")) or [],
        messages=_messages(row["messages"]),
        columns=columns,
        prompt_ids=row.get("prompt_token_ids"),
        task={name: value_of(row.get(f"task_{name}")) for name in _JSON_TASK}
        | {name: row.get(f"task_{name}") for name in _PLAIN_TASK},
        extra=value_of(row.get("extra")) or {},
        gaps={gap for gap in row.get("gaps") or () if gap != "no_task"},
        complete=row.get("rollout_id") is not None,
        source_run=row.get("run_id"),
        source_key=row.get("rollout_id"),
        group_key=row.get("group_id"),
    )
    others = {name: json.loads(json.dumps(value, default=str)) for name, value in row.items()
              if name not in _NAMES and name not in _REFERRED and value is not None}  # fmt: skip
    told = {"run_id": row.get("run_id"), **others}
    rollout.extra = {**rollout.extra, _FORMAT: {name: value for name, value in told.items() if value is not None}}
    return [rollout]


def _messages(structs: list[Row] | None) -> list[Message]:
    """Messages as the store has them; files of other hands may leave fields out, or hold the chat form."""
    structs = structs or []
    if any("content" in struct for struct in structs):
        return read_messages(structs)
    return [Message.from_row({"tool_calls": (), **struct}) for struct in structs]


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a file; a rollout that was imported from such a file names the run it had there."""
    write_parquet((_row(rollout) for rollouts in episodes for rollout in rollouts), schema(), path)


def _row(rollout: FileRollout) -> Row:
    task = rollout.task or {}
    told = dict(rollout.extra.get(_FORMAT) or {})
    run_id = told.pop("run_id", rollout.get("run_id"))
    extra = {name: value for name, value in rollout.extra.items() if name != _FORMAT} | ({_FORMAT: told} if told else {})  # fmt: skip
    return {
        **rollout.columns,
        "run_id": run_id,
        "messages": [message.to_row() for message in rollout.messages],
        "gaps": sorted(rollout.gaps),
        "extra": text_of(extra or None),
        "prompt": [message.to_row() for message in rollout.prompt],
        "tools": json.dumps(rollout.tools, ensure_ascii=False),
        "prompt_token_ids": rollout.prompt_ids,
        **{f"task_{name}": text_of(task.get(name)) for name in _JSON_TASK},
        **{f"task_{name}": task.get(name) for name in _PLAIN_TASK},
    }
