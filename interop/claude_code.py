"""Claude Code sessions: `~/.claude/projects/PROJECT/SESSION.jsonl` and the files of its sub-agents, a file or a whole folder of them.

One reply stands on several lines with one message id, and calls made at once fork the tree of lines: both are joined again. A path through the
tree is a rollout: rewinds and retries give branches, a compaction starts a branch with a prompt of its own, a sub-agent is another agent of the
same episode. System prompt and tools are not in the files.
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

_FORMAT = "claude-code"
_SPOKEN = ("user", "assistant")
_INTERRUPTED = "[Request interrupted by user"
# Written by the program in the model's name: errors of the API, mostly.
_SYNTHETIC = "<synthetic>"


def signs(sample: FileSample) -> str | None:
    """Lines of a session, or a folder of sessions."""
    if sample.kind in ("lines", "folder") and sample.any("uuid", "parentUuid", "sessionId"):
        return "its lines have uuid, parentUuid and sessionId"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The sessions of a file or folder, each whole: `lines` and, by agent id, those of its sub-agents' files."""
    files = [path] if path.is_file() else sorted(path.rglob("*.jsonl"))
    mains = [file for file in files if not _is_agent(file)] or files
    done = 0
    for file in mains:
        lines = list(read_objects(file, quarantine))
        done += file.stat().st_size
        if lines:
            agents = {other.stem.removeprefix("agent-"): [row for _, row in read_objects(other, quarantine)] for other in _agent_files(file, lines)}  # fmt: skip
            yield (
                Line(lines[0][0].number, "", False, done, file),
                {"lines": [row for _, row in lines], "agents": agents},
            )
        if on_progress:
            on_progress(done)


def _is_agent(file: Path) -> bool:
    return file.name.startswith("agent-")


def _agent_files(file: Path, lines: list[tuple[Line, Row]]) -> list[Path]:
    """The sub-agents' files of a session: in a folder of its name, or beside it with its id on their first line."""
    session = next((row["sessionId"] for _, row in lines if row.get("sessionId")), None)
    inside = sorted((file.parent / file.stem / "subagents").glob("agent-*.jsonl"))
    beside = [
        other
        for other in sorted(file.parent.glob("agent-*.jsonl"))
        if other != file and session == next((row.get("sessionId") for _, row in read_objects(other, None)), None)
    ]
    return [*inside, *beside]


@dataclass
class _Node:
    """One message: an assistant's lines of one reply, the results of one reply's calls, or another line.

    Attributes:
        lines: In file order.
        uuids: Of its lines.
        parent: The message before it; None for the first.
    """

    lines: list[Row]
    parent: "_Node | None"
    children: "list[_Node]" = field(default_factory=list)

    @property
    def speaker(self) -> str:
        return self.lines[0]["message"]["role"] if "message" in self.lines[0] else "user"


def read(session: Row, source: Source) -> list[FileRollout]:
    """The rollouts of one session, those of its sub-agents after its own."""
    lines = [line for line in session["lines"] if isinstance(line, dict)]
    sidechains = [line for line in lines if line.get("isSidechain")]
    own = [line for line in lines if not line.get("isSidechain")]
    first = next((line for line in lines if line.get("sessionId")), {})
    about = {name: first[name] for name in ("sessionId", "cwd", "version", "gitBranch") if first.get(name)}
    named = next((line["slug"] for line in lines if line.get("slug")), first.get("sessionId"))
    callers = _callers(lines)
    found = _rollouts(own, "main", about)
    by_agent: dict[str, list[Row]] = dict(session.get("agents") or {})
    for line in sidechains:
        by_agent.setdefault(line.get("agentId") or "sidechain", []).append(line)
    for id, agent_lines in by_agent.items():
        caller = callers.get(id, {})
        found += _rollouts(agent_lines, caller.get("agent") or f"agent-{id}", {**about, "agentId": id, **caller})
    if not found:
        raise ValueError("the session holds no reply")
    run = source.source_run
    for rollout in found:
        rollout.columns["episode_id"] = hash_id(_FORMAT, run, "episode", named)
        rollout.columns["slot_id"] = hash_id(_FORMAT, run, "slot", *rollout.columns.pop("slot_id"))
    return found


def _callers(lines: list[Row]) -> dict[str, Row]:
    """The sub-agents that the main session names, by agent id: the call that started each, and the kind of agent."""
    kinds: dict[Any, Any] = {}
    found: dict[str, Row] = {}
    for line in lines:
        content = (line.get("message") or {}).get("content")
        for block in content if isinstance(content, list) else ():
            if block.get("type") == "tool_use":
                kinds[block.get("id")] = (block.get("input") or {}).get("subagent_type")
            elif block.get("type") == "tool_result" and isinstance(line.get("toolUseResult"), dict):
                id = line["toolUseResult"].get("agentId")
                if id:
                    call = block.get("tool_use_id")
                    found[id] = {"called_by": call, "agent": kinds.get(call)}
    return found


def _rollouts(lines: list[Row], agent: str, about: Row) -> list[FileRollout]:
    """A rollout for each path of the tree that has a reply no path before it has."""
    gaps: set[str] = set()
    nodes = _tree(lines, gaps)
    told: set[int] = set()
    found = []
    for leaf in (node for node in nodes if not node.children):
        path: list[_Node] = []
        node: _Node | None = leaf
        while node is not None:
            path.append(node)
            node = node.parent
        path.reverse()
        new = [node for node in path if id(node) not in told]
        if any(node.speaker == "assistant" for node in new):
            found.append(_rollout(path, new[0], agent, len(found), {**about}, set(gaps)))
            told |= {id(node) for node in path}
    return found


def _tree(lines: list[Row], gaps: set[str]) -> list[_Node]:
    """The messages in file order. Lines that say nothing to the model are passed over, their children joined to their parents."""
    by_uuid: dict[str, _Node | None] = {}
    replies: dict[Any, _Node] = {}
    results: dict[int, _Node] = {}
    nodes: list[_Node] = []
    for line in lines:
        uuid = line.get("uuid")
        parent = by_uuid.get(line.get("parentUuid") or "")
        if uuid is not None and uuid in by_uuid:
            continue  # a resumed session repeats lines
        said = _said(line, gaps)
        if said is None:
            if uuid is not None:
                by_uuid[uuid] = parent
            continue
        role = said["message"]["role"]
        id_ = said["message"].get("id") if role == "assistant" else None
        # A reply's lines and the results of its calls hang in each other's chain: each kind is one message.
        if id_ is not None and id_ in replies:
            node = replies[id_]
            node.lines.append(said)
        elif _is_result(said) and (reply := _reply(parent)) is not None and id(reply) in results:
            node = results[id(reply)]
            node.lines.append(said)
        else:
            reply = _reply(parent)
            if _is_result(said) and reply is not None:
                parent = reply
            node = _Node([said], parent)
            nodes.append(node)
            if parent is not None:
                parent.children.append(node)
            if id_ is not None:
                replies[id_] = node
            if _is_result(said) and reply is not None:
                results[id(reply)] = node
        if uuid is not None:
            by_uuid[uuid] = node
    return nodes


def _reply(node: _Node | None) -> _Node | None:
    """The reply that a result under this message answers: the message, or what it answers where that is itself results."""
    while node is not None and node.speaker != "assistant" and _is_result(node.lines[0]):
        node = node.parent
    return node if node is not None and node.speaker == "assistant" else None


def _is_result(line: Row) -> bool:
    content = line["message"].get("content")
    return isinstance(content, list) and any(
        isinstance(block, dict) and block.get("type") == "tool_result" for block in content
    )


def _said(line: Row, gaps: set[str]) -> Row | None:
    """A line of the conversation; None for another one."""
    message = line.get("message")
    if line.get("type") in _SPOKEN and isinstance(message, dict):
        if message.get("model") == _SYNTHETIC:
            gaps.add("synthetic_replies_left_out")
            return None
        return line if "role" in message else {**line, "message": {**message, "role": line["type"]}}
    if line.get("type") == "attachment":
        attached = line.get("attachment") or {}
        if attached.get("type") == "queued_command" and isinstance(attached.get("prompt"), str | list):
            return {**line, "message": {"role": "user", "content": attached["prompt"]}}
        gaps.add("attachments_left_out")
    return None


def _rollout(path: list[_Node], start: _Node, agent: str, branch: int, about: Row, gaps: set[str]) -> FileRollout:
    reader = MessageReader(gaps)
    prompt, messages = split_prompt(reader.read([message for node in path for message in _messages(node)]))
    replies = [node.lines[-1]["message"] for node in path if node.speaker == "assistant"]
    models = list(dict.fromkeys(reply["model"] for reply in replies if reply.get("model")))
    usage = [reply["usage"] for reply in replies if isinstance(reply.get("usage"), dict)]
    times = [time for node in path for line in node.lines if (time := _time(line.get("timestamp")))]
    rollout = FileRollout(prompt, [], messages, gaps=reader.gaps, unread=reader.unread)
    last, name = path[-1].lines[-1], (about.get("sessionId"), about.get("agentId"))
    rollout.source_key = [*name, last.get("uuid")]
    rollout.columns = {
        "environment": _FORMAT, "agent": agent, "branch": branch, "policy_id": models[-1] if models else None,
        # A session that grew is a later attempt at the same slot.
        "slot_id": [*name, start.lines[0].get("uuid")], "attempt": len(path),
        "started_at": times[0] if times else None, "duration_s": (max(times) - times[0]).total_seconds() if times else None,
        **_ending(path, replies[-1]),
    }  # fmt: skip
    more = {"models": models} if len(models) > 1 else {}
    rollout.extra = {_FORMAT: {**about, **more, **({"usage": usage} if usage else {})}}
    return rollout


def _messages(node: _Node) -> Iterator[Row]:
    """The chat message of a node: the content of its lines together, each result once."""
    message = node.lines[-1]["message"]
    if len(node.lines) == 1:
        yield {"role": message["role"], "content": message.get("content")}
        return
    blocks: list[Any] = []
    answered: set[Any] = set()
    for line in node.lines:
        content = line["message"].get("content")
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
            call = block.get("tool_use_id") if isinstance(block, dict) else None
            if call is None or call not in answered:
                blocks.append(block)
                answered.add(call)
    yield {"role": message["role"], "content": blocks}


def _ending(path: list[_Node], reply: Row) -> Row:
    """How the session stands: cut off by its user, by the length, or at its end."""
    content = path[-1].lines[-1]["message"].get("content")
    texts = (
        [content]
        if isinstance(content, str)
        else [block.get("text") for block in content or () if isinstance(block, dict)]
    )
    if any(isinstance(text, str) and text.startswith(_INTERRUPTED) for text in texts):
        return {"status": "aborted", "stop_reason": "interrupted"}
    if path[-1].speaker == "assistant" and reply.get("stop_reason") == "tool_use":
        return {"status": "aborted", "stop_reason": "unanswered_call"}
    if reply.get("stop_reason") == "max_tokens":
        return {"status": "truncated", "stop_reason": "length"}
    return {"status": "completed", "stop_reason": reply.get("stop_reason")}


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
