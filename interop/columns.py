"""Datasets of conversations in whatever columns they have them: `--map messages=conversations,reward=resolved`.

Columns that are not mapped are found by their usual names. Messages are chat messages or ShareGPT turns, as lists or as JSON text; a prompt and
its answer may be columns of their own (xLAM: `query` and `answers`). ToolACE's tools are cut out of the system text, its calls read from text.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..base.errors import ConfigError
from ..store.reading import MessageReader, split_prompt
from ..store.tool_schemas import read_tools
from . import toolace
from .rewards import verdict
from .rollout import FileRollout, Row, unread_fields
from .sample import FileSample
from .sharegpt import chat_turns
from .storing import Source
from .values import present, read_json

_FORMAT = "columns"

# The usual names of what is not mapped, the first that a row has.
_USUAL: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "trajectory", "dialogue"),
    "prompt": ("prompt", "query", "question", "instruction"),
    "completion": ("completion", "response", "answers"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
    "reward": ("reward", "rewards", "score"),
    "truth": ("ground_truth",),
    "group": ("instance_id", "task_id", "problem_id"),
    "model": ("model", "generator"),
    "key": (),
    "step": (),
    "category": (),
}
# An issue solved is the verdict of the SWE datasets; elsewhere the column may mean anything.
_SOLVED = ("instance_id", "resolved")


def signs(sample: FileSample) -> str | None:
    """Datasets whose columns are known."""
    if sample.have("conversations"):
        return "its rows have conversations"
    if sample.have("query", "answers"):
        return "its rows have a query and its answers (xLAM)"
    if sample.have("trajectory"):
        return "its rows have a trajectory"
    if sample.have("messages", *_SOLVED):
        return "its rows have messages, instance_id and resolved (SWE-smith)"
    return None


@lru_cache(maxsize=8)
def parse_map(text: str | None) -> Mapping[str, str]:
    """`messages=conversations,reward=resolved` as column names by what they hold. Raises ConfigError for a name that is unknown."""
    mapped: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if name not in _USUAL or not equals or not column:
            raise ConfigError(f"--map has {part.strip()!r}.", f"Write NAME=COLUMN; names are {', '.join(_USUAL)}.")
        mapped[name] = column
    return mapped


def read(row: Row, source: Source) -> list[FileRollout]:
    """One conversation."""
    mapped = parse_map(source.map)
    taken: dict[str, str] = {}

    def value(name: str) -> Any:
        usual = _USUAL[name] if name != "reward" or not all(column in row for column in _SOLVED) else ("resolved",)
        for column in [mapped[name]] if name in mapped else usual:
            if (found := present(row, column)) is not None:
                taken[name] = column
                return found
        return None

    gaps: set[str] = set()
    turns, tools = _turns(value, mapped, gaps)
    reader = MessageReader(gaps, tools)
    prompt, messages = split_prompt(reader.read(turns))
    truth = value("truth")
    if truth is None and taken.get("completion") == "answers":
        truth = read_json(row["answers"]) if isinstance(row["answers"], str) else row["answers"]
    rollout = FileRollout(prompt, tools, messages, gaps=gaps, unread=reader.unread, untrained=reader.untrained)
    rollout.columns = {"policy_id": value("model"), **_verdict(value("reward"), row, source), "step": value("step")}
    rollout.group_key, rollout.source_key = value("group"), value("key")
    rollout.task = {"ground_truth": truth, "source_key": rollout.group_key, "category": value("category")}
    unused = {"system"} if "two_system_prompts" in gaps else set()
    columns = {column.partition(".")[0] for name, column in taken.items() if name not in unused and ("." not in column or column in row)}  # fmt: skip
    rest = {name: item for name, item in row.items() if name not in columns and item is not None}
    rollout.extra = {_FORMAT: rest} if rest else {}
    rollout.gaps |= unread_fields(rest, source.reward_columns)
    return [rollout]


def _turns(value: Any, mapped: Mapping[str, str], gaps: set[str]) -> tuple[list[Row], list[Row]]:
    """The conversation as chat messages, and the tools."""
    system, listed = value("system"), value("messages") if "prompt" not in mapped else None
    given = value("tools")
    tools = [toolace.chat_tool(tool) for tool in read_tools(given)] if given else []
    if listed is None:
        turns = [*_said(value("prompt"), "user"), *_answer(value("completion"))]
        if len(turns) < 2:
            raise ValueError(
                f"no column of messages; the usual names are {', '.join(_USUAL['messages'])}, others are named with --map"
            )
    else:
        turns = chat_turns(read_json(listed) if isinstance(listed, str) else listed)
    if isinstance(system, str) and system:
        if turns and turns[0].get("role") == "system":
            if turns[0].get("content") != system:
                gaps.add("two_system_prompts")
        else:
            turns = [{"role": "system", "content": system}, *turns]
    if not tools and turns[0].get("role") == "system" and isinstance(turns[0].get("content"), str):
        tools, text = toolace.cut_tools(turns[0]["content"])
        turns = [{**turns[0], "content": text}, *turns[1:]]
        turns = toolace.read_calls(turns, tools, gaps) if tools else turns
    if any("<tool_call>" in str(turn.get("content")) for turn in turns if turn.get("role") == "assistant"):
        gaps.add("calls_in_text")
    return turns, tools


def _said(given: Any, role: str) -> list[Row]:
    if given is None:
        return []
    read = read_json(given) if isinstance(given, str) and given.lstrip().startswith("[") else given
    if isinstance(read, list) and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in read):
        return chat_turns(read)
    return [{"role": role, "content": given}]


def _answer(given: Any) -> list[Row]:
    """An answer: messages, text, or xLAM's list of calls."""
    read = read_json(given) if isinstance(given, str) else given
    if (
        isinstance(read, list)
        and read
        and all(isinstance(call, dict) and "name" in call and "role" not in call for call in read)
    ):
        return [{"role": "assistant", "content": None, "tool_calls": [_call(call) for call in read]}]
    return _said(given, "assistant")


def _call(call: Row) -> Row:
    return {"name": call["name"], "arguments": call.get("arguments", call.get("parameters", {}))}


def _verdict(given: Any, row: Row, source: Source) -> Row:
    """The reward of a mapped column, else of those named with --reward-column; text of a number or of a truth is read."""
    if source.reward_columns:
        return verdict(row, source.reward_columns)
    if isinstance(given, str):
        given = {"true": True, "false": False}.get(given.lower(), read_json(given))
    return verdict({"reward": given}, ())
