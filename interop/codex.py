"""Codex sessions: `~/.codex/sessions/YYYY/MM/DD/rollout-….jsonl`, a file or a whole folder of them.

The items that went to and came from the model are kept; events repeat them for the screen and are passed over but for usage and endings. A
compaction starts a branch with the history that replaced the old one. Sub-agents have files of their own, which name the session that started
them: they are rollouts of the same episode. Tools are not in the files.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..store.ids import hash_id
from ..store.reading import MessageReader, split_prompt
from .lines import Line, Quarantine, read_objects
from .rollout import FileRollout, Row
from .sample import FileSample
from .storing import Source
from .values import present

_FORMAT = "codex"


def signs(sample: FileSample) -> str | None:
    """Lines of a session."""
    first = sample.rows[0] if sample.rows else {}
    if first.get("type") == "session_meta" and isinstance(first.get("payload"), dict):
        return "its first line is a session_meta"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The sessions of a file or folder, each whole."""
    done = 0
    for file in [path] if path.is_file() else sorted(path.rglob("*.jsonl")):
        lines = list(read_objects(file, quarantine))
        done += file.stat().st_size
        if lines:
            yield Line(lines[0][0].number, "", False, done, file), {"lines": [row for _, row in lines]}
        if on_progress:
            on_progress(done)


@dataclass
class _Context:
    """What the model was given from the start or from a compaction on.

    Attributes:
        items: Responses items, in order.
        taken_over: How many of them a compaction put there: they are prompt, the policy's earlier words too.
        shared: How many of them a context before it holds too; one without a reply of its own is no rollout.
        usage: Of each model call.
        times: Of its lines.
    """

    items: list[Row] = field(default_factory=list)
    usage: list[Row] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    model: str | None = None
    ending: Row = field(default_factory=lambda: {"status": "completed"})
    taken_over: int = 0
    shared: int = 0
    gaps: set[str] = field(default_factory=set)


def read(session: Row, source: Source) -> list[FileRollout]:
    """The rollouts of one session, one for each compaction more."""
    lines = [line for line in session["lines"] if isinstance(line.get("payload"), dict)]
    meta: Row = next((line["payload"] for line in lines if line.get("type") == "session_meta"), {})
    contexts = [_Context()]
    turns: list[Row] = []
    for line in lines:
        _take(line, contexts, turns)
    system = _instructions(meta, turns)
    run, key = source.source_run, meta.get("id") or meta.get("session_id")
    found = []
    for context in contexts:
        if any(item.get("role") == "assistant" or str(item.get("type")).endswith("_call") for item in context.items[context.shared :]):  # fmt: skip
            found.append(_rollout(context, system, len(found), key))
    if not found:
        raise ValueError("the session holds no reply")
    parent = _parent(meta)
    for rollout in found:
        rollout.columns["episode_id"] = hash_id(_FORMAT, run, "episode", parent or key)
        rollout.columns["slot_id"] = hash_id(_FORMAT, run, "slot", key, rollout.columns["branch"])
        rollout.columns["agent"] = "subagent" if parent else "main"
        settings = (
            {name: turns[-1].get(name) for name in ("approval_policy", "sandbox_policy", "effort")} if turns else {}
        )
        about = {**{name: meta.get(name) for name in ("id", "cwd", "originator", "cli_version", "git", "source", "model_provider")}, **settings}  # fmt: skip
        rollout.extra[_FORMAT] |= {name: value for name, value in about.items() if value is not None}
    return found


def _take(line: Row, contexts: list[_Context], turns: list[Row]) -> None:
    """Adds one line to the last context, or begins another."""
    kind, payload, context = line.get("type"), line["payload"], contexts[-1]
    if time := _time(line.get("timestamp")):
        context.times.append(time)
    if kind == "response_item":
        context.items.append(payload)
    elif kind == "turn_context":
        turns.append(payload)
        context.model = payload.get("model") or context.model
    elif kind == "compacted":
        history = payload.get("replacement_history")
        known = isinstance(history, list)
        if not isinstance(history, list):
            history = [{"type": "message", "role": "user", "content": payload.get("message") or ""}]
        gaps = set() if known else {"compacted_history_unknown"}
        contexts.append(_Context(list(history), model=context.model, taken_over=len(history), shared=len(history), gaps=gaps))  # fmt: skip
    elif kind == "event_msg" and payload.get("type") == "thread_rolled_back":
        kept = _before_turn(context.items, payload.get("num_turns") or 1)
        contexts.append(_Context(kept, model=context.model, taken_over=min(context.taken_over, len(kept)), shared=len(kept), gaps=context.gaps))  # fmt: skip
    elif kind == "event_msg" and payload.get("type") == "token_count":
        if usage := present(payload, "info.last_token_usage"):
            context.usage.append(usage)
    elif kind == "event_msg" and payload.get("type") in ("turn_aborted", "error"):
        aborted = payload["type"] == "turn_aborted"
        context.ending = {"status": "aborted", "stop_reason": payload.get("reason") or "interrupted"} if aborted else {"status": "error", "error_type": "engine", "error_message": payload.get("message")}  # fmt: skip
    elif kind == "event_msg" and payload.get("type") in ("task_started", "turn_started", "task_complete", "turn_complete"):  # fmt: skip
        context.ending = {"status": "completed"}


def _before_turn(items: list[Row], n_turns: int) -> list[Row]:
    """The items before the last `n_turns` messages of the user."""
    asked = [index for index, item in enumerate(items) if item.get("role") == "user"]
    return items[: asked[-n_turns]] if len(asked) >= n_turns else []


def _instructions(meta: Row, turns: list[Row]) -> str | None:
    """The system prompt: of the session, else of its first turn."""
    for told in (meta.get("base_instructions"), meta.get("instructions"), present(turns[0], "user_instructions") if turns else None):  # fmt: skip
        text = told.get("text") if isinstance(told, dict) else told
        if isinstance(text, str) and text:
            return text
    return None


def _parent(meta: Row) -> str | None:
    """The session that started this one as a sub-agent; None for one that a user started."""
    spawned = present(meta, "source.subagent.thread_spawn")
    return spawned.get("parent_thread_id") if isinstance(spawned, dict) else None


def _rollout(context: _Context, system: str | None, branch: int, key: Any) -> FileRollout:
    gaps = set(context.gaps)
    if any(item.get("encrypted_content") for item in context.items):
        gaps.add("encrypted_reasoning")
    reader = MessageReader(gaps)
    given = [{"type": "message", "role": "system", "content": system}] if system else []
    before = reader.read_items([*given, *context.items[: context.taken_over]])
    messages = reader.read_items(context.items[context.taken_over :])
    asked, messages = split_prompt(messages)
    rollout = FileRollout([*before, *asked], [], messages, gaps=reader.gaps, unread=reader.unread)
    rollout.source_key = [key, branch, len(context.items)]
    times = context.times
    rollout.columns = {
        "environment": _FORMAT, "branch": branch, "policy_id": context.model,
        # A session that grew is a later attempt at the same slot.
        "attempt": len(context.items), "started_at": times[0] if times else None,
        "duration_s": (max(times) - times[0]).total_seconds() if times else None, **context.ending,
    }  # fmt: skip
    rollout.extra = {_FORMAT: {"usage": context.usage} if context.usage else {}}
    return rollout


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
