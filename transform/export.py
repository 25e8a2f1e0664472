"""A dataset version as files that other trainers read: TRL's, NeMo RL's and OpenAI's chat form. A few rows are in memory at a time."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..base.errors import ConfigError, EmptyDataset
from ..interop.lines import write_objects
from ..interop.parquet_files import write_parquet
from ..interop.rollout import Row, text_of, value_of
from ..interop.trl import COLUMNS, flat, schema_of, trl_message, untemplated
from ..store.lance_store import LanceStore
from ..store.messages import Message
from ..store.task import Task
from .materialize import Pair, Trajectory, grpo_tasks, iter_dpo, iter_sft
from .versions import DatasetVersion

_PREFERENCE = ("prompt", "chosen", "rejected", "tools", "chosen_id", "rejected_id")
_PROMPTS = ("prompt", "tools", "task_id", "ground_truth", "weight")
_ROWS_A_BATCH = 64
_NOT_LAST = "the last message is not the assistant's"


@dataclass
class DatasetExport:
    """What an export wrote.

    Attributes:
        rows: Number of rows in the file.
        left_out: Reason to number of rows, for rows that the format cannot represent.
    """

    file: str
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportTarget:
    """One format for one kind of dataset.

    Attributes:
        row: Makes a row from a demonstration, a pair, or a task and its weight; returns a string, the reason, when it cannot.
        columns: The columns of a Parquet file; None when the format is JSONL only.
    """

    row: Callable[..., Row | str]
    columns: tuple[str, ...] | None = None


def export_dataset(store: LanceStore, dataset: DatasetVersion, format: str, path: str | Path) -> DatasetExport:
    """Writes the rows in order. An existing file is replaced once the new one is complete.

    Args:
        format: A key of FORMATS for the kind of the dataset.
        path: `.parquet` where the format has columns, else JSONL.

    Raises:
        ConfigError: The kind has no such format, or the format cannot be written with that suffix.
        EmptyDataset: The format can represent no row.
    """
    path = Path(path)
    target = _target(dataset.kind, format, path)
    left_out: Counter[str] = Counter()
    summary = DatasetExport(str(path))

    def rows() -> Iterator[Row]:
        for entry in _entries(store, dataset):
            row = _unweighted(format, entry) or target.row(*entry)
            if isinstance(row, str):
                left_out[row] += 1
            else:
                summary.rows += 1
                yield row

    lines = _refuse_none(rows(), format, left_out)
    if path.suffix == ".parquet" and target.columns is not None:
        write_parquet((flat(row) for row in lines), schema_of(target.columns), path)
    else:
        write_objects(lines, path)
    summary.left_out = dict(left_out)
    return summary


def trl_rows(store: LanceStore, dataset: DatasetVersion) -> Iterator[Row]:
    """The rows in order, in the columns of the format `trl`. A UserWarning counts those that it cannot represent, by reason."""
    make = FORMATS[dataset.kind]["trl"].row
    left_out: Counter[str] = Counter()
    for entry in _entries(store, dataset):
        row = _unweighted("trl", entry) or make(*entry)
        if isinstance(row, str):
            left_out[row] += 1
        else:
            yield row
    for reason, count in left_out.items():
        warnings.warn(f"{count} rows of {dataset.label} are left out: {reason}.", stacklevel=2)


def trl_batches(store: LanceStore, dataset: DatasetVersion) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
    """The rows of `trl_rows` as Arrow batches, and their schema."""
    schema = schema_of(FORMATS[dataset.kind]["trl"].columns or ())
    rows = (flat(row) for row in trl_rows(store, dataset))
    parts = iter(lambda: list(islice(rows, _ROWS_A_BATCH)), [])
    return (pa.RecordBatch.from_pylist(some, schema) for some in parts), schema


def _target(kind: str, format: str, path: Path) -> ExportTarget:
    formats = FORMATS[kind]
    if format not in formats:
        raise ConfigError(
            f"A dataset of kind {kind} has no export format {format!r}.", f"Formats are {', '.join(formats)}."
        )
    target = formats[format]
    if path.suffix == ".parquet" and target.columns is None:
        raise ConfigError(f"The format {format} cannot be written as Parquet.", "Name a file that ends in .jsonl.")
    if path.suffix not in (".parquet", ".jsonl", ".json", ""):
        raise ConfigError(f"Unsupported extension {path.suffix} of {path}.", "Use .jsonl or .parquet.")
    return target


def _entries(store: LanceStore, dataset: DatasetVersion) -> Iterator[tuple[Any, ...]]:
    """The arguments of ExportTarget.row, one tuple per row."""
    if dataset.kind == "sft":
        return ((demo,) for demo in iter_sft(store, dataset))
    if dataset.kind == "dpo":
        return ((pair,) for pair in iter_dpo(store, dataset))
    weights = dataset.references["weight"].to_list()
    return zip(grpo_tasks(store, dataset), weights, strict=True)


def _refuse_none(rows: Iterable[Row], format: str, left_out: Counter[str]) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        reasons = "; ".join(f"{reason} ({count} rows)" for reason, count in left_out.most_common())
        raise EmptyDataset(f"No row can be exported as {format}: {reasons}.", "Choose another format.")


def _unweighted(format: str, entry: tuple[Any, ...]) -> str | None:
    """Why a format cannot represent replies that are not to be learned from; None when it can, or there are none. Those of a prompt that stands
    apart are not learned from anyway."""
    sides = [side for one in entry for side in ((one.chosen, one.rejected) if isinstance(one, Pair) else (one,)) if isinstance(side, Trajectory)]  # fmt: skip
    given = any(at >= len(side.prompt) or "messages" in format for side in sides for at in side.untrained)
    return "a message has weight 0, which only openai can represent" if given and format != "openai" else None


def _trl_demo(demo: Trajectory) -> Row | str:
    """Prompt and completion, each a list of messages."""
    wrong = _untemplated(demo)
    return wrong or {"prompt": _templated(demo.prompt), "completion": _templated(demo.messages), **_beside(demo)}


def _trl_messages(demo: Trajectory) -> Row | str:
    """The whole conversation as one list of messages."""
    return _untemplated(demo) or {"messages": _templated((*demo.prompt, *demo.messages)), **_beside(demo)}


def _beside(demo: Trajectory) -> Row:
    tools = text_of(value_of(demo.tools) or None)
    return {"tools": tools, "rollout_id": demo.rollout_id, "run_id": demo.run_id, "reward": demo.reward}


def _openai_demo(demo: Trajectory) -> Row | str:
    """`messages` and `tools`; the last message must be the assistant's."""
    if demo.messages[-1].role != "assistant":
        return "the last message is not the assistant's"
    messages = _chat((*demo.prompt, *demo.messages))
    for position in demo.untrained:
        messages[position]["weight"] = 0
    line: Row = {"messages": messages}
    tools = value_of(demo.tools)
    return {**line, "tools": tools} if tools else line


def _nemo_messages(demo: Trajectory) -> Row | str:
    """NeMo RL's OpenAIFormatDataset: as `trl-messages`, with tools as a list; the last message must be the assistant's."""
    if demo.messages[-1].role != "assistant":
        return _NOT_LAST
    messages = (*demo.prompt, *demo.messages)
    return _untemplated(demo) or {"messages": _templated(messages), "tools": value_of(demo.tools) or None}


def _nemo_response(demo: Trajectory) -> Row | str:
    """One question and one answer, both plain text."""
    question, answer = _plain(demo.prompt[-1:]), _plain(demo.messages)
    if question is None or answer is None or len(demo.prompt) > 1:
        return "it is more than one question and one plain answer"
    return {"input": question, "output": answer}


def _trl_pair(pair: Pair) -> Row | str:
    """TRL's explicit prompt: what both sides share, and either side."""
    return _untemplated(pair.chosen, pair.rejected) or {
        "prompt": _templated(pair.chosen.prompt),
        "chosen": _templated(pair.chosen.messages),
        "rejected": _templated(pair.rejected.messages),
        "tools": text_of(value_of(pair.chosen.tools) or None),
        "chosen_id": pair.chosen.rollout_id,
        "rejected_id": pair.rejected.rollout_id,
    }


def _nemo_preference(pair: Pair) -> Row | str:
    """NeMo RL's PreferenceDataset: rank 0 is the best."""
    sides = enumerate((pair.chosen, pair.rejected))
    return _untemplated(pair.chosen, pair.rejected) or {
        "context": _templated(pair.chosen.prompt),
        "completions": [{"rank": rank, "completion": _templated(side.messages)} for rank, side in sides],
        "tools": value_of(pair.chosen.tools) or None,
    }


def _nemo_binary(pair: Pair) -> Row | str:
    """NeMo RL's BinaryPreferenceDataset: either side is one plain text."""
    chosen, rejected = _plain(pair.chosen.messages), _plain(pair.rejected.messages)
    if chosen is None or rejected is None:
        return "a side is more than one plain answer"
    wrong = untemplated(pair.chosen.prompt)
    return wrong or {"prompt": _templated(pair.chosen.prompt), "chosen": chosen, "rejected": rejected}


def _trl_prompt(task: Task, weight: float) -> Row | str:
    return untemplated(task.messages) or {
        "prompt": _templated(task.messages),
        "tools": text_of(list(task.tools) or None),
        "task_id": task.task_id,
        "ground_truth": text_of(task.ground_truth),
        "weight": weight,
    }


def _untemplated(*sides: Trajectory) -> str | None:
    return next((why for side in sides if (why := untemplated((*side.prompt, *side.messages)))), None)


def _templated(messages: Iterable[Message]) -> list[Row]:
    return [trl_message(message) for message in messages]


def _chat(messages: Iterable[Message]) -> list[Row]:
    return [message.to_openai() for message in messages]


def _plain(messages: tuple[Message, ...]) -> str | None:
    """The text of the only message; None when there are several, or it has calls, reasoning or parts."""
    if len(messages) != 1 or messages[0].tool_calls or messages[0].reasoning or messages[0].parts:
        return None
    return messages[0].text


FORMATS: dict[str, dict[str, ExportTarget]] = {
    "sft": {
        "trl": ExportTarget(_trl_demo, COLUMNS["trl"]),
        "trl-messages": ExportTarget(_trl_messages, COLUMNS["trl-messages"]),
        "openai": ExportTarget(_openai_demo),
        "nemo-messages": ExportTarget(_nemo_messages),
        "nemo-response": ExportTarget(_nemo_response),
    },
    "dpo": {
        "trl": ExportTarget(_trl_pair, _PREFERENCE),
        "nemo-preference": ExportTarget(_nemo_preference),
        "nemo-binary": ExportTarget(_nemo_binary),
    },
    "grpo": {"trl": ExportTarget(_trl_prompt, _PROMPTS)},
}
