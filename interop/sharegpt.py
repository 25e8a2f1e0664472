"""ShareGPT conversations, in LLaMA-Factory's dialect: `{"conversations": [{"from", "value"}], "system", "tools"}` a line.

Turns of human or observation alternate there with turns of gpt or function_call, and a turn either speaks or calls. There are no call ids; what
a message says beside its calls has no place.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..store.messages import Message
from .lines import write_objects
from .rollout import FileRollout, Row, text_of
from .values import read_json

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "ai": "assistant", "system": "system", "function_call": "assistant", "tool_call": "assistant", "observation": "tool", "tool": "tool",
    "tool_response": "tool", "function_response": "tool", "function": "tool", "ipython": "tool",
}  # fmt: skip
_CALLING = ("function_call", "tool_call")
_ASKING, _ANSWERING = ("human", "observation"), ("gpt", "function_call")


def chat_turns(turns: Any) -> list[Row]:
    """Turns as chat messages; chat messages stay. Raises ValueError for what is neither, and for a role that is not known."""
    if not isinstance(turns, list):
        raise ValueError(f"the conversation is a {type(turns).__name__}, not a list of messages")
    found: list[Row] = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError(f"a message is a {type(turn).__name__}, not an object")
        found += [turn] if "from" not in turn or turn.get("role") else _chat(turn)
    return found


def _chat(turn: Row) -> list[Row]:
    said, value = turn["from"], turn.get("value", turn.get("content"))
    role = _ROLES.get(str(said).lower())
    if role is None:
        raise ValueError(f"a turn is from {said!r}, which is no role")
    rest = {name: item for name, item in turn.items() if name not in ("from", "value", "content")}
    calls = _calls(value) if said in _CALLING else None
    if calls is None:
        return [{"role": role, "content": value, **rest}]
    return [{"role": "assistant", "content": None, "tool_calls": calls, **rest}]


def _calls(value: Any) -> list[Row] | None:
    """The calls of a function_call turn; None when its text is no JSON of calls, which stays text."""
    read = read_json(value) if isinstance(value, str) else value
    listed = read if isinstance(read, list) else [read]
    if not listed or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in listed):
        return None
    return [{"name": call["name"], "arguments": call.get("arguments", call.get("parameters", {}))} for call in listed]


def unfit(rollout: FileRollout) -> str | None:
    """Why a rollout cannot be a conversation of turns that alternate."""
    messages = [*rollout.prompt, *rollout.messages]
    turns = _turns(messages)
    if any(not isinstance(read_json(call.arguments), dict) for message in messages for call in message.tool_calls):
        return "arguments are not a JSON object"
    if any(message.parts for message in messages):
        return "content parts"
    alternate = all(turn["from"] in (_ASKING, _ANSWERING)[index % 2] for index, turn in enumerate(turns))
    return None if turns and alternate and len(turns) % 2 == 0 else "turns do not alternate"


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a conversation a line. There is no key of ours to leave out."""
    write_objects((line(rollout) for rollouts in episodes for rollout in rollouts), path)


def line(rollout: FileRollout) -> Row:
    """The line of one rollout."""
    messages = [*rollout.prompt, *rollout.messages]
    system = "\n\n".join(message.text or "" for message in messages if message.role in ("system", "developer"))
    told: Row = {"conversations": _turns(messages), "system": system}
    return {**told, "tools": text_of([tool.get("function", tool) for tool in rollout.tools]) if rollout.tools else ""}


def drops(rollout: FileRollout) -> list[str]:
    """Ids of calls, words and reasoning beside calls, and which replies are the prompt's: a trainer learns from all of them."""
    calling = [message for message in (*rollout.prompt, *rollout.messages) if message.tool_calls]
    found = ["messages.tool_calls.id"] if calling else []
    found += ["messages.text beside calls"] if any(message.text for message in calling) else []
    found += ["messages.reasoning beside calls"] if any(message.reasoning for message in calling) else []
    return found + (
        ["prompt.replies as such"] if any(message.role == "assistant" for message in rollout.prompt) else []
    )


def _turns(messages: Sequence[Message]) -> list[Row]:
    """The messages but the system's; neighbours of one side are one turn, as the dialect demands."""
    turns: list[Row] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        turn = _turn(message)
        if turns and turns[-1]["from"] == turn["from"] and turn["from"] in _ASKING:
            turns[-1] = {**turn, "value": f"{turns[-1]['value']}\n{turn['value']}"}
        else:
            turns.append(turn)
    return turns


def _turn(message: Message) -> Row:
    text = message.text or ""
    if message.role != "assistant":
        return {"from": "observation" if message.role == "tool" else "human", "value": text}
    thought = f"<think>\n{message.reasoning}\n</think>\n\n" if message.reasoning else ""
    if not message.tool_calls:
        return {"from": "gpt", "value": thought + text}
    calls = [{"name": call.name, "arguments": _arguments(call.arguments)} for call in message.tool_calls]
    return {"from": "function_call", "value": json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)}


def _arguments(text: str) -> Any:
    read = read_json(text)
    return text if read is None else read
