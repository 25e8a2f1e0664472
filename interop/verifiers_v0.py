"""verifiers v0 `results.jsonl`: one rollout a line, with a `metadata.json` beside it. Import only."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..store.reading import MessageReader
from ..store.tool_schemas import read_tools
from .rollout import FileRollout, Row, unread_fields
from .storing import Source
from .values import present

_BOOKKEEPING = {"example_id", "task", "error", "timing", "is_completed", "is_truncated", "stop_condition"}
_PLACED = {"prompt", "completion", "reward", "metrics", "tool_defs", "answer"}


def companion(path: Path, inputs: Any = None) -> Row:
    """What `metadata.json` beside the file says; empty without one. Raises ValueError when it is not JSON."""
    file = path.with_name("metadata.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read(row: Row, source: Source) -> list[FileRollout]:
    """One row; `example_id` is required, as it is upstream, and groups the rows."""
    about: Row = source.companion or {}
    gaps: set[str] = set() if about else {"no_metadata"}
    tools = read_tools(row.get("tool_defs"))
    reader = MessageReader(gaps, tools)
    prompt = reader.read(row["prompt"], "user", "prompt")
    messages = reader.read(row["completion"], "assistant", "completion")
    sampling = about.get("sampling_args") or {}
    metrics = row.get("metrics") or {}
    rollout = FileRollout(prompt, tools, messages, gaps=reader.all_gaps(), group_key=row["example_id"])
    rollout.columns = {
        "environment": about.get("env_id") or row.get("task"),
        "policy_id": about.get("model"),
        "temperature": sampling.get("temperature"),
        "top_p": sampling.get("top_p"),
        "max_tokens": sampling.get("max_tokens"),
        "reward": row.get("reward"),
        "reward_components": [{"name": name, "value": value, "weight": None} for name, value in metrics.items()],
        **_ending(row),
        **_times(row.get("timing")),
    }
    rollout.task = {"ground_truth": row.get("answer") or None, "source_key": row["example_id"]}
    rest = {name: value for name, value in row.items() if name not in _PLACED}
    rollout.extra = {"verifiers-v0": rest | reader.unread}
    rollout.gaps |= unread_fields(rest, _BOOKKEEPING | metrics.keys())
    return [rollout]


def _times(timing: Any) -> Row:
    start, total = (present(timing, name) for name in ("start_time", "total"))
    started = datetime.fromtimestamp(start, UTC) if isinstance(start, int | float) and start > 0 else None
    return {"started_at": started, "duration_s": float(total) if isinstance(total, int | float) and total > 0 else None}


def _ending(row: Row) -> Row:
    error, stop = row.get("error"), row.get("stop_condition")
    if error:
        text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
        kind = error.get("error") if isinstance(error, dict) else None
        return {
            "status": "error",
            "stop_reason": stop or "error",
            "error_type": kind or "engine",
            "error_message": text,
        }
    return {"status": "truncated" if row.get("is_truncated") else "completed", "stop_reason": stop or "stop"}
