"""A rollout between a file and the store: what every format's reader gives and every format's writer gets."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..store.content import is_empty
from ..store.messages import Message
from ..store.rollout import Rollout
from ..store.tables import TABLES

Row = dict[str, Any]
# In `extra`: positions of replies that are not to be learned from.
UNTRAINED = "untrained"
_INDEX = re.compile(r"\[\d+\]")

# Worked out from the messages and tokens again, so no format loses them.
DERIVED = {
    "rollout_id", "slot_id", "task_id", "prompt_id", "n_prompt_tokens", "n_tokens", "n_sampled_tokens",
    "n_turns", "n_tool_calls", "n_tool_errors", "n_parse_failures", "prefix_ok", "branch", "trainable",
}  # fmt: skip

# Always there, and the reader's own words about its source.
_NOT_CONTENT = {"messages", "gaps", "extra"}
_IDENTITY = {"rollout_id", "slot_id", "run_id", "group_id", "episode_id", "task_id", "prompt_id"}


@dataclass
class FileRollout:
    """One trajectory.

    Attributes:
        prompt: System and user messages.
        tools: Tool schemas in OpenAI chat form.
        messages: Everything after the prompt.
        columns: Other columns of `rollouts`, the verdict that counts among them; on import, those of the source (ids, counts and hashes are worked out).
        prompt_ids: The prompt's tokens; None when unknown.
        task: ground_truth, state, extra (JSON values), split, category, difficulty, source_key; None when the source has no task.
        extra: By format name, the overlay that gives that format's record back (overlay.py).
        gaps: What the source lacks.
        unread: By path, the values that no column took; `extra` keeps them where the format has no overlay.
        untrained: Positions, in prompt and messages together, of replies that are not to be learned from.
        complete: Whether the source was a store, so that nothing is missing but what `gaps` says.
        source_run: The run the source names; None when it names none.
        source_key: The key of the row in its source; None when it has none.
        group_key: What the source groups rollouts by, besides task and model; None when nothing.
        verdicts: Of other scorers: scorer, reward, components.
        collected: On export with another scorer's verdict in `columns`: VERDICT as it was at collection time; None else.
    """

    prompt: list[Message]
    tools: list[Row]
    messages: list[Message]
    columns: Row = field(default_factory=dict)
    prompt_ids: list[int] | None = None
    task: Row | None = None
    extra: Row = field(default_factory=dict)
    gaps: set[str] = field(default_factory=set)
    unread: Row = field(default_factory=dict)
    untrained: set[int] = field(default_factory=set)
    complete: bool = False
    source_run: str | None = None
    source_key: Any = None
    group_key: Any = None
    verdicts: list[Row] = field(default_factory=list)
    collected: Row | None = None

    def get(self, column: str) -> Any:
        """A column's value, None when the source has none."""
        return self.columns.get(column)


# Columns that an import works out, and those that a FileRollout holds in other attributes.
_NOT_COLUMNS = {
    *(
        "rollout_id",
        "slot_id",
        "run_id",
        "group_id",
        "episode_id",
        "sample_index",
        "task_id",
        "prompt_id",
        "environment",
    ),
    *("messages", "extra", "gaps"),
}


def from_rollout(rollout: Rollout) -> FileRollout:
    """A rollout made in Python, as a reader returns it."""
    row = rollout.to_row()
    columns = {name: value for name, value in row.items() if value is not None and name not in _NOT_COLUMNS}
    if rollout.environment != "unknown":
        columns["environment"] = rollout.environment
    given = rollout.task if rollout.task is not None and rollout.task.ground_truth is not None else None
    names = ("ground_truth", "state", "split", "category", "difficulty", "source_key", "extra")
    return FileRollout(
        prompt=list(rollout.prompt.messages) if rollout.prompt is not None else [],
        tools=[dict(tool) for tool in rollout.tools or ()],
        messages=list(rollout.messages),
        columns=columns,
        prompt_ids=rollout.prompt_token_ids,
        task=None if given is None else {name: getattr(given, name) for name in names},
        extra=dict(rollout.extra),
    )


def unheld(rollout: FileRollout, held: Collection[str]) -> list[str]:
    """The columns with a value that a format which holds `held` has no place for, and what an import brought from another format."""
    tokens = ("token_ids", "loss_mask", "logprobs")
    skipped = {*DERIVED, *_NOT_CONTENT, *(() if rollout.get("token_ids") is not None else tokens)}
    names = [name for name in TABLES["rollouts"].schema.names if name not in skipped and name not in held]
    found = [name for name in names if rollout.get(name) is not None]
    found += ["prompt_token_ids"] if rollout.prompt_ids is not None and "prompt_token_ids" not in held else []
    task = rollout.task or {}
    found += [f"task.{name}" for name in ("ground_truth", "state", "extra", "category", "difficulty")
              if task.get(name) is not None and f"task.{name}" not in held]  # fmt: skip
    return found + [f"extra.{name}" for name in rollout.extra]


def keepsake(rollout: FileRollout, held: Collection[str]) -> Row:
    """What a format has no column for, as JSON, to travel under a key of ours that other readers pass over."""
    kept = {name: rollout.get(name) for name in unheld(rollout, held) if name in TABLES["rollouts"].schema.names}
    if rollout.get("started_at") is not None and "started_at" in kept:
        kept["started_at"] = rollout.columns["started_at"].isoformat()
    if rollout.prompt_ids is not None and "prompt_token_ids" not in held:
        kept["prompt_token_ids"] = rollout.prompt_ids
    task = {
        name: value for name, value in (rollout.task or {}).items() if value is not None and f"task.{name}" not in held
    }
    return {"rollout_id": rollout.get("rollout_id"), **kept, **({"task": task} if task else {})}


def take_keepsake(rollout: FileRollout, kept: Any) -> None:
    """Puts back what `keepsake` packed; the ids become the source's names. Raises TypeError or ValueError when it is not one."""
    if not kept:
        return
    known = set(TABLES["rollouts"].schema.names) - _IDENTITY - _NOT_CONTENT
    values = {name: value for name, value in kept.items() if name in known}
    if "started_at" in values:
        values["started_at"] = datetime.fromisoformat(values["started_at"])
    rollout.columns |= values
    rollout.complete = True
    rollout.prompt_ids = kept.get("prompt_token_ids", rollout.prompt_ids)
    rollout.task = {**(rollout.task or {}), **kept["task"]} if kept.get("task") else rollout.task
    rollout.source_run = kept.get("run_id")
    rollout.source_key = kept.get("rollout_id")
    rollout.group_key = kept.get("group_id")


def unread_fields(record: Row, taken: Collection[str]) -> set[str]:
    """A gap `unread:NAME` for each field of a record that holds something and that no column took."""
    return {f"unread:{name}" for name, value in record.items() if name not in taken and not is_empty(value)}


def unread_gaps(values: Row) -> set[str]:
    """A gap for each path of values that no column took, without the positions in lists: `unread:messages[].name`."""
    return {f"unread:{_INDEX.sub('[]', path)}" for path in values}


def value_of(text: str | None) -> Any:
    """JSON text as a value, None for None."""
    return None if text is None else json.loads(text)


def text_of(value: Any) -> str | None:
    """A value as JSON text, None for None."""
    return None if value is None else json.dumps(value, ensure_ascii=False)
