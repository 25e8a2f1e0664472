"""ATIF, Harbor's trajectory format: a JSON object with steps, one file a trajectory; JSONL with one a line is read and written too.

Arguments are objects there, so their bytes are not kept; there is no reward and no sampling in it. Other columns travel under
`extra.rollhouse`, which the format leaves to its users.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..store.ids import file_name
from ..store.items import TokenCall
from ..store.messages import Message, ToolCall
from .atif_files import records
from .atif_steps import EMBEDDED, EPISODE, FORMAT, TOKENS, read
from .lines import whole_file, write_objects
from .parts import atif_part, converted
from .rollout import FileRollout, Row, keepsake
from .source_record import source_record
from .tokens import calls_of

__all__ = ["held", "read", "record", "records", "wanted", "write"]

# What overlays of stores are made over; `_todays` turns it into the version that is written.
_BASE = "ATIF-v1.6"
_VERSION = "ATIF-v1.8"
_OURS = {EPISODE, EMBEDDED}


def held(rollout: FileRollout) -> set[str]:
    """The columns it has a place for."""
    return {"policy_id", "agent"}


def wanted(built: Row, trajectory: Row) -> Row:
    """The trajectory without the keys that only we added."""
    return {name: value for name, value in trajectory.items() if name not in _OURS}


def record(rollouts: list[FileRollout], plain: bool = True) -> Row:
    """The trajectory of one rollout."""
    [rollout] = rollouts
    steps: list[Row] = []
    calls = iter(calls_of(rollout) or ())
    for place, message in enumerate((*rollout.prompt, *rollout.messages)):
        if message.role == "tool" and steps:
            steps[-1].setdefault("observation", {"results": []})["results"].append(_result(message))
        elif message.role == "assistant":
            steps.append(
                _agent_step(
                    message,
                    len(steps) + 1,
                    next(calls, None) if place >= len(rollout.prompt) else None,
                    TOKENS in rollout.extra,
                )
            )
        else:
            source = "system" if message.role in ("system", "developer") else "user"
            steps.append({"step_id": len(steps) + 1, "source": source, "message": _content(message)})
    agent = {"name": rollout.get("agent"), "version": "unknown", "model_name": rollout.get("policy_id")}
    tools = {"tool_definitions": rollout.tools} if rollout.tools else {}
    ours = {} if plain else {"extra": {"rollhouse": keepsake(rollout, held(rollout))}}
    return {
        "schema_version": _BASE,
        "session_id": rollout.get("rollout_id"),
        "agent": {name: value for name, value in agent.items() if value is not None} | tools,
        "steps": steps,
        **ours,
    }


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a trajectory a line for a path that ends in .jsonl, else a folder with a file for each rollout."""
    trajectories = ((rollout, _trajectory(rollout, plain)) for rollouts in episodes for rollout in _apart(rollouts))
    if path.suffix == ".jsonl":
        write_objects((trajectory for _, trajectory in trajectories), path)
        return
    path.mkdir(parents=True, exist_ok=True)
    for rollout, trajectory in trajectories:
        with whole_file(path / f"{file_name(rollout.get('rollout_id'))}.json") as file:
            json.dump(trajectory, file, ensure_ascii=False, indent=1)


def _apart(rollouts: list[FileRollout]) -> list[FileRollout]:
    """Those that are not inside another's record, where the other is written too."""
    outer = [rollout for rollout in rollouts if EMBEDDED not in rollout.extra]
    return outer if any(FORMAT in rollout.extra for rollout in outer) else rollouts


def _trajectory(rollout: FileRollout, plain: bool) -> Row:
    if FORMAT in rollout.extra:
        return source_record(record, [rollout], rollout.extra[FORMAT])
    rollout = converted(replace(rollout, extra={**rollout.extra, TOKENS: True}), atif_part)
    return _todays(record([rollout], plain), rollout)


def _todays(trajectory: Row, rollout: FileRollout) -> Row:
    """The trajectory in the version that is written today. `session_id` is of the run there."""
    steps = [step | ({"llm_call_count": 1} if step["source"] == "agent" else {}) for step in trajectory["steps"]]
    ids = {"session_id": rollout.get("run_id") or trajectory["session_id"], "trajectory_id": trajectory["session_id"]}
    return {"schema_version": _VERSION, **ids, **{name: value for name, value in trajectory.items() if name not in ("schema_version", "session_id", "steps")}, "steps": steps}  # fmt: skip


def _agent_step(message: Message, number: int, call: TokenCall | None, prompt_too: bool) -> Row:
    step: Row = {"step_id": number, "source": "agent", "message": _content(message)}
    if message.reasoning is not None:
        step["reasoning_content"] = message.reasoning
    if message.tool_calls:
        step["tool_calls"] = [
            {"tool_call_id": tool_call.id, "function_name": tool_call.name, "arguments": _arguments(tool_call)}
            for tool_call in message.tool_calls
        ]
    if call is not None:
        step["metrics"] = {
            "prompt_tokens": len(call.prompt),
            "completion_tokens": len(call.generation),
            **({"prompt_token_ids": call.prompt} if prompt_too else {}),
            "completion_token_ids": call.generation,
            "logprobs": call.logprobs,
        }
    return step


def _arguments(call: ToolCall) -> Row:
    """As an object; text that is none is kept under `raw`."""
    try:
        return call.parsed()
    except (ValueError, RecursionError):
        return {"raw": call.arguments}


def _result(message: Message) -> Row:
    linked = {} if message.tool_call_id is None else {"source_call_id": message.tool_call_id}
    return {**linked, "content": _content(message)}


def _content(message: Message) -> Any:
    return json.loads(message.parts) if message.parts else message.text or ""
