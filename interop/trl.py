"""TRL's columns, as Parquet or JSONL: prompt and completion, messages, prompts alone, or prompt, completion and label.

Text only. Arguments are objects, which TRL's templates demand, and every message has every key, so that `datasets` reads rows of all kinds alike; in
Parquet arguments are a column of JSON. `tools` is JSON text, which TRL decodes: Arrow would fill every schema with the keys of the others. Our
`rollout_id`, `run_id` and `reward` stand beside, unless the file is to be plain; TRL passes over columns it does not know.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..store.messages import Message
from ..store.reading import MessageReader, split_prompt
from ..store.tool_schemas import read_tools
from .lines import Line, Quarantine, read_objects, write_objects
from .parquet_files import read_unfilled, write_parquet
from .rewards import verdict
from .rollout import FileRollout, Row, text_of, unread_fields
from .storing import Source

# Readers of Arrow see JSON, and `datasets` an object.
_JSON = pa.field("arguments", pa.string(), metadata={b"ARROW:extension:name": b"arrow.json", b"ARROW:extension:metadata": b""})  # fmt: skip
_CALL = pa.struct([("id", pa.string()), ("type", pa.string()), ("function", pa.struct([pa.field("name", pa.string()), _JSON]))])  # fmt: skip
_MESSAGES = pa.list_(
    pa.struct(
        [("role", pa.string()), ("content", pa.string()), ("reasoning_content", pa.string()), ("tool_calls", pa.list_(_CALL)), ("tool_call_id", pa.string())]
    )
)  # fmt: skip
_TYPES = {
    "messages": _MESSAGES, "prompt": _MESSAGES, "completion": _MESSAGES, "label": pa.bool_(), "tools": pa.string(),
    "rollout_id": pa.string(), "run_id": pa.string(), "reward": pa.float32(), "task_id": pa.string(), "ground_truth": pa.string(),
}  # fmt: skip
# Of dataset versions only: rollouts have no such columns.
_SET_TYPES = {"chosen": _MESSAGES, "rejected": _MESSAGES, "chosen_id": pa.string(), "rejected_id": pa.string(), "weight": pa.float32()}  # fmt: skip
_OURS = ("rollout_id", "run_id", "reward")
_CONVERSATIONS = ("messages", "prompt", "completion", "chosen", "rejected")
_KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id")
# What each of TRL's dataset types is made of.
COLUMNS = {
    "trl": ("prompt", "completion", "tools", *_OURS),
    "trl-messages": ("messages", "tools", *_OURS),
    "trl-prompt": ("prompt", "tools", "task_id", "ground_truth"),
    "trl-kto": ("prompt", "completion", "label", "tools", *_OURS),
}
# What every row of TRL's log of completions has, beside a column for each reward function.
_LOG = {"step", "prompt", "completion", "advantage"}


def held(rollout: FileRollout) -> set[str]:
    """The columns it has a place for."""
    return {"reward", "run_id"}


def prompt_held(rollout: FileRollout) -> set[str]:
    """The columns that a file of prompts has a place for."""
    return {"task_id", "task.ground_truth"}


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The rows of a Parquet or JSONL file, by its suffix."""
    if path.suffix == ".parquet":
        return read_unfilled(path, quarantine, on_progress)
    return read_objects(path, quarantine, on_progress)


def read(row: Row, source: Source) -> list[FileRollout]:
    """A row with prompt and completion, or with messages; TRL's own log of completions is such a file too.

    The reward is the field that is named so, or the user's choice. In the log of completions the other numbers are the reward functions'.
    What no column takes goes to `extra`.
    """
    tools = read_tools(row.get("tools"))
    reader = MessageReader(tools=tools)
    if row.get("messages") is not None:
        prompt, messages = split_prompt(reader.read(row["messages"]))
    else:
        prompt = reader.read(row["prompt"], "user", "prompt")
        messages = reader.read(row["completion"], "assistant", "completion")
    told = _verdict(row, source.reward_columns)
    columns = {"policy_id": row.get("model"), "step": row.get("step"), **told}
    taken = {*_TYPES, "step", "model", "rewards", "score", *source.reward_columns, *(part["name"] for part in told["reward_components"])}  # fmt: skip
    rest = {name: value for name, value in row.items() if value is not None and name not in taken}
    rollout = FileRollout(prompt, tools, messages, columns, gaps=reader.all_gaps() | unread_fields(rest, {"advantage"}), untrained=reader.untrained)  # fmt: skip
    kept = {**rest, **reader.unread}
    rollout.extra = {"trl": kept} if kept else {}
    rollout.source_run, rollout.source_key = row.get("run_id"), row.get("rollout_id")
    return [rollout]


def _verdict(row: Row, named: Sequence[str]) -> Row:
    if not named and row.keys() >= _LOG:
        functions = {name: value for name, value in row.items() if name not in {*_TYPES, *_LOG, "model"} and _is_number(value)}  # fmt: skip
        parts = [{"name": name, "value": value, "weight": None} for name, value in functions.items()]
        return {"reward": sum(functions.values()) if functions else row.get("reward"), "reward_components": parts}
    told = verdict(row, named)
    if told["reward"] is None and isinstance(row.get("label"), bool):
        told["reward"] = float(row["label"])
    return told


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def trl_message(message: Message) -> Row:
    """A message with every key, and arguments as objects. Raises ValueError for arguments that are not a JSON object, see `untemplated`."""
    chat = {name: None for name in _KEYS} | message.to_openai()
    if message.parts is not None:
        chat["content"] = _words(message.parts)
    if message.tool_calls:
        chat["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.parsed()}}
            for call in message.tool_calls
        ]
    return chat


def _words(parts: str) -> str | None:
    """The text of content parts; None when one of them is something else. Stores of earlier versions hold parts that are text alone."""
    read = json.loads(parts)
    texts = [part["text"] for part in read if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts) if len(texts) == len(read) else None


def untemplated(messages: Iterable[Message]) -> str | None:
    """Why no chat template renders the messages as the policy wrote and read them: arguments that only text can carry, or an image. None when one can."""
    try:
        for message in messages:
            if message.parts is not None and _words(message.parts) is None:
                return "a message has a part that is not text"
            for call in message.tool_calls:
                call.parsed()
    except (ValueError, RecursionError):
        return "arguments of a call are not a JSON object"
    return None


def row_of(rollout: FileRollout, names: Iterable[str]) -> Row:
    """The named columns of one rollout."""
    said = {"prompt": rollout.prompt, "completion": rollout.messages, "messages": (*rollout.prompt, *rollout.messages)}
    values = {
        "label": rollout.get("passed"),
        "tools": text_of(rollout.tools or None),
        "rollout_id": rollout.get("rollout_id"),
        "run_id": rollout.get("run_id"),
        "reward": rollout.get("reward"),
        "task_id": rollout.get("task_id"),
        "ground_truth": text_of((rollout.task or {}).get("ground_truth")),
    }
    return {name: [trl_message(one) for one in said[name]] if name in said else values[name] for name in names}


def unfit(rollout: FileRollout) -> str | None:
    """Why a rollout is left out; None when it need not be."""
    return untemplated((*rollout.prompt, *rollout.messages))


def unfit_for_kto(rollout: FileRollout) -> str | None:
    """KTO needs a label, too."""
    return "no verdict" if rollout.get("passed") is None else unfit(rollout)


def unfit_prompt(rollout: FileRollout) -> str | None:
    """Of a prompt alone."""
    return untemplated(rollout.prompt)


def writer(kind: str) -> Callable[[Iterable[list[FileRollout]], Path, bool], None]:
    """The function that writes files of one dataset type, a key of COLUMNS."""

    def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
        names = columns_of(kind, plain)
        rows = (row_of(rollout, names) for rollouts in episodes for rollout in rollouts)
        if kind == "trl-prompt":
            rows = _first_of_each_task(rows)
        if path.suffix == ".parquet":
            write_parquet((flat(row) for row in rows), schema_of(names), path)
        else:
            write_objects(rows, path)

    return write


def columns_of(kind: str, plain: bool) -> list[str]:
    """The columns of a file of one dataset type; a plain one has none of ours."""
    return [name for name in COLUMNS[kind] if not (plain and name in _OURS)]


def _first_of_each_task(rows: Iterable[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows:
        if row["task_id"] not in seen:
            seen.add(row["task_id"])
            yield row


def schema_of(names: Iterable[str]) -> pa.Schema:
    """The Arrow schema of a Parquet file with these columns."""
    return pa.schema([(name, (_TYPES | _SET_TYPES)[name]) for name in names])


def flat(row: Row) -> Row:
    """As a Parquet file holds it: arguments as JSON text."""
    return {name: _flat_messages(value) if name in _CONVERSATIONS else value for name, value in row.items()}


def _flat_messages(messages: list[Row]) -> list[Row]:
    return [
        {**message, "tool_calls": message["tool_calls"] and [_flat_call(call) for call in message["tool_calls"]]}
        for message in messages
    ]


def _flat_call(call: Row) -> Row:
    function = call["function"]
    return {**call, "function": {**function, "arguments": text_of(function["arguments"])}}
