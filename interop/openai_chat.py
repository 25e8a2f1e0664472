"""OpenAI chat JSONL: `{"messages": [...], "tools": [...]}` a line. Text only; what else a line has is kept beside the columns."""

from collections.abc import Iterable
from pathlib import Path

from .chat import read_messages, read_tools, split_prompt
from .lines import write_objects
from .rollout import FileRollout, Row
from .source_record import source_record
from .storing import Source

_FORMAT = "openai-chat"


def held(rollout: FileRollout) -> set[str]:
    """The columns it has a place for: none."""
    return set()


def read(line: Row, source: Source) -> list[FileRollout]:
    """One conversation: what comes before the first assistant message is the prompt."""
    gaps: set[str] = set()
    prompt, messages = split_prompt(read_messages(line["messages"], gaps))
    model = line.get("model")
    columns = {"policy_id": model if isinstance(model, str) else None}
    return [FileRollout(prompt, read_tools(line.get("tools")), messages, columns, gaps=gaps)]


def record(rollouts: list[FileRollout]) -> Row:
    """The line of one rollout."""
    [rollout] = rollouts
    line: Row = {"messages": [message.to_openai() for message in (*rollout.prompt, *rollout.messages)]}
    return {**line, "tools": rollout.tools} if rollout.tools else line


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a file; lines that the store imported from this format come out as they were. There is no key of ours to leave out."""
    write_objects((_line([rollout]) for rollouts in episodes for rollout in rollouts), path)


def _line(rollouts: list[FileRollout]) -> Row:
    overlay = rollouts[0].extra.get(_FORMAT)
    return record(rollouts) if overlay is None else source_record(record, rollouts, overlay)
