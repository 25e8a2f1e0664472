"""A dataset version as files other trainers read: TRL's, NeMo RL's, and OpenAI's chat form. Rows are read and written a few at a time."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, EmptyDataset
from ..interop.lines import write_objects
from ..interop.parquet_files import write_parquet
from ..interop.rollout import Rollout, Row, text_of, value_of
from ..interop.trl import COLUMNS, flat, row_of, schema_of
from ..store.lance_store import LanceStore
from ..store.messages import Message
from ..store.task import Task
from .materialize import Pair, Trajectory, grpo_tasks, iter_dpo, iter_sft
from .versions import DatasetVersion

_PREFERENCE = ("prompt", "chosen", "rejected", "tools", "chosen_id", "rejected_id")
_PROMPTS = ("prompt", "tools", "task_id", "ground_truth", "weight")


@dataclass
class Exported:
    """What an export wrote: rows, and by reason those the format has no way to say."""

    file: str
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """One format of one kind.

    Attributes:
        row: The row of a demonstration, a pair, or a task and its weight; a text says why there is none.
        columns: What makes a Parquet file of it; None where it is JSONL only.
    """

    row: Callable[..., Row | str]
    columns: tuple[str, ...] | None = None


def export_dataset(store: LanceStore, dataset: DatasetVersion, format: str, path: str | Path) -> Exported:
    """Writes the rows in order; a file of that name is replaced once the new one is complete.

    Args:
        format: A key of FORMATS for the kind of the dataset.
        path: `.parquet` where the format has columns, else JSONL.

    Raises ConfigError for a format the kind does not have or a file that says it is of another, EmptyDataset when no row can be said in it.
    """
    path = Path(path)
    formats = FORMATS[dataset.kind]
    if format not in formats:
        raise ConfigError(
            f"A dataset of kind {dataset.kind} has no format {format!r}.", f"Formats are {', '.join(formats)}."
        )
    target = formats[format]
    if path.suffix == ".parquet" and target.columns is None:
        raise ConfigError(f"{format} is JSON lines.", "Name a file that ends in .jsonl.")
    if path.suffix not in (".parquet", ".jsonl", ".json", ""):
        raise ConfigError(f"{path} would not be {path.suffix[1:]}.", "Name a file that ends in .jsonl or .parquet.")
    left_out: Counter[str] = Counter()
    exported = Exported(str(path))

    def rows() -> Iterator[Row]:
        for entry in _entries(store, dataset):
            row = target.row(*entry)
            if isinstance(row, str):
                left_out[row] += 1
            else:
                exported.rows += 1
                yield row

    lines = _refuse_none(rows(), format, left_out)
    if path.suffix == ".parquet" and target.columns is not None:
        write_parquet((flat(row) for row in lines), schema_of(target.columns), path)
    else:
        write_objects(lines, path)
    exported.left_out = dict(left_out)
    return exported


def _entries(store: LanceStore, dataset: DatasetVersion) -> Iterator[tuple[Any, ...]]:
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
        why = "; ".join(f"{reason} ({count} rows)" for reason, count in left_out.most_common())
        raise EmptyDataset(f"Nothing can be said in {format}: {why}.", "Choose another format.")


def _trl(kind: str) -> Target:
    def row(demo: Trajectory) -> Row:
        return row_of(_rollout(demo), COLUMNS[kind])

    return Target(row, COLUMNS[kind])


def _openai_sft(demo: Trajectory) -> Row | str:
    """`messages` and `tools`; the last message must be the assistant's."""
    if demo.messages[-1].role != "assistant":
        return "the last message is not the assistant's"
    line: Row = {"messages": _chat((*demo.prompt, *demo.messages))}
    tools = value_of(demo.tools)
    return {**line, "tools": tools} if tools else line


def _response(demo: Trajectory) -> Row | str:
    """One question and one answer, both plain text."""
    asked, answered = _plain(demo.prompt[-1:]), _plain(demo.messages)
    if asked is None or answered is None or len(demo.prompt) > 1:
        return "it is more than one question and one plain answer"
    return {"input": asked, "output": answered}


def _preference(pair: Pair) -> Row:
    """TRL's explicit prompt: what both sides share, and either side."""
    return {
        "prompt": _chat(pair.chosen.prompt),
        "chosen": _chat(pair.chosen.messages),
        "rejected": _chat(pair.rejected.messages),
        "tools": text_of(value_of(pair.chosen.tools) or None),
        "chosen_id": pair.chosen.rollout_id,
        "rejected_id": pair.rejected.rollout_id,
    }


def _nemo_preference(pair: Pair) -> Row:
    """NeMo RL's PreferenceDataset: rank 0 is the best."""
    sides = enumerate((pair.chosen, pair.rejected))
    completions = [{"rank": rank, "completion": _chat(side.messages)} for rank, side in sides]
    row: Row = {"context": _chat(pair.chosen.prompt), "completions": completions}
    tools = value_of(pair.chosen.tools)
    return {**row, "tools": tools} if tools else row


def _nemo_binary(pair: Pair) -> Row | str:
    """NeMo RL's BinaryPreferenceDataset: both sides are one plain text."""
    chosen, rejected = _plain(pair.chosen.messages), _plain(pair.rejected.messages)
    if chosen is None or rejected is None:
        return "a side is more than one plain answer"
    return {"prompt": _chat(pair.chosen.prompt), "chosen": chosen, "rejected": rejected}


def _prompt(task: Task, weight: float) -> Row:
    return {
        "prompt": _chat(task.messages),
        "tools": text_of(list(task.tools) or None),
        "task_id": task.task_id,
        "ground_truth": text_of(task.ground_truth),
        "weight": weight,
    }


def _chat(messages: Iterable[Message]) -> list[Row]:
    return [message.to_openai() for message in messages]


def _plain(messages: tuple[Message, ...]) -> str | None:
    """The text of the one message; None for several, and for calls, reasoning or parts."""
    if len(messages) != 1 or messages[0].tool_calls or messages[0].reasoning or messages[0].parts:
        return None
    return messages[0].text


def _rollout(demo: Trajectory) -> Rollout:
    columns = {"rollout_id": demo.rollout_id, "run_id": demo.run_id, "reward": demo.reward}
    return Rollout(list(demo.prompt), value_of(demo.tools) or [], list(demo.messages), columns)


FORMATS: dict[str, dict[str, Target]] = {
    "sft": {
        "trl": _trl("trl"),
        "trl-messages": _trl("trl-messages"),
        "openai": Target(_openai_sft),
        "nemo-response": Target(_response),
    },
    "dpo": {
        "trl": Target(_preference, _PREFERENCE),
        "nemo-preference": Target(_nemo_preference),
        "nemo-binary": Target(_nemo_binary),
    },
    "grpo": {"trl": Target(_prompt, _PROMPTS)},
}
