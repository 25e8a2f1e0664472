"""OpenAI chat JSONL: `{"messages": [...], "tools": [...]}` a line, in any dialect of messages. What else a line has is kept beside the columns."""

from collections.abc import Iterable
from pathlib import Path

from ..store.reading import MessageReader, split_prompt
from ..store.tool_schemas import read_tools
from .lines import write_objects
from .parts import chat_part, converted
from .rewards import REWARDS, verdict
from .rollout import FileRollout, Row, unread_fields
from .source_record import source_record
from .storing import Source

_FORMAT = "openai-chat"
_TAKEN = {"messages", "tools", "functions", "model", *REWARDS}


def read(line: Row, source: Source) -> list[FileRollout]:
    """One conversation: what comes before the first assistant message is the prompt."""
    tools = read_tools(line.get("tools") or line.get("functions"))
    reader = MessageReader(tools=tools)
    prompt, messages = split_prompt(reader.read(line["messages"]))
    model = line.get("model")
    columns = {"policy_id": model if isinstance(model, str) else None, **verdict(line, source.reward_columns)}
    taken = {*_TAKEN, *source.reward_columns}
    gaps = reader.all_gaps() | unread_fields(line, taken)
    return [FileRollout(prompt, tools, messages, columns, gaps=gaps, untrained=reader.untrained)]


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
    if overlay is not None:
        return source_record(record, rollouts, overlay)
    return record([converted(rollout, chat_part) for rollout in rollouts])
