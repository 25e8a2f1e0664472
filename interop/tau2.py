"""tau2-bench's `results.json`: simulations of an agent with a simulated user.

The user has tools of its own, which the agent never sees: their calls and results are left out of the messages. The greeting that opens a
simulation is not the model's: it is part of the prompt.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ..store.reading import MessageReader
from ..store.tool_schemas import read_tools
from .files import opened
from .lines import Line, Quarantine
from .rollout import FileRollout, Row
from .sample import FileSample
from .storing import Source
from .values import present

_FORMAT = "tau2"
_STATUS = {"max_steps": "truncated", "timeout": "timeout"}
_PLACED = {"id", "task_id", "trial", "messages", "reward_info", "termination_reason", "start_time", "end_time", "duration", "seed"}  # fmt: skip


def signs(sample: FileSample) -> str | None:
    """An object of simulations."""
    if sample.kind == "object" and sample.have("simulations", "info.environment_info"):
        return "it is an object with simulations, tasks and info.environment_info"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The simulations of a file, each with its task and the file's `info`; memory holds the tasks."""
    import ijson

    def items(prefix: str) -> Iterator[Any]:
        with opened(path) as (file, _):
            yield from ijson.items(file, prefix, use_float=True)

    info = next(items("info"), {})
    tasks = {str(task.get("id")): task for task in items("tasks.item") if isinstance(task, dict)}
    for number, simulation in enumerate(items("simulations.item"), start=1):
        line = Line(number, "", False, number, path)
        if not isinstance(simulation, dict):
            quarantine.add(line, "a simulation is not an object")
            continue
        task = tasks.get(str(simulation.get("task_id"))) or {}
        yield line, {"info": info, "task": task, "simulation": simulation}
    if on_progress:
        on_progress(path.stat().st_size)


def read(record: Row, source: Source) -> list[FileRollout]:
    """One simulation."""
    info, task, simulation = (record[name] for name in ("info", "task", "simulation"))
    tools = read_tools(present(info, "environment_info.tool_defs") or simulation.get("tool_defs"))
    reader = MessageReader(tools=tools)
    seen, users = _seen(simulation["messages"], reader.gaps)
    opened = next((index for index, message in enumerate(seen) if message["role"] == "user"), 0)
    start = next((index for index, message in enumerate(seen) if index >= opened and message["role"] == "assistant"), None)  # fmt: skip
    if start is None:
        raise ValueError("the agent said nothing")
    rollout = FileRollout(reader.read(seen[:start]), tools, reader.read(seen[start:]))
    rollout.gaps = reader.all_gaps()
    verdict = simulation.get("reward_info") or {}
    reason = str(simulation.get("termination_reason"))
    failed = "error" in reason
    rollout.columns = {
        "environment": present(info, "environment_info.domain_name"), "policy_id": present(info, "agent_info.llm"),
        "temperature": present(info, "agent_info.llm_args.temperature"), "sampling_seed": simulation.get("seed"),
        "sample_index": simulation.get("trial"), "reward": verdict.get("reward"),
        "reward_components": [{"name": name, "value": float(value), "weight": None} for name, value in (verdict.get("reward_breakdown") or {}).items()],
        "status": "error" if failed else _STATUS.get(reason, "completed"), "error_type": "engine" if failed else None,
        "error_message": reason if failed else None, "stop_reason": reason,
        "started_at": datetime.fromisoformat(simulation["start_time"]) if simulation.get("start_time") else None, "duration_s": simulation.get("duration"),
    }  # fmt: skip
    rollout.source_key, rollout.group_key = simulation.get("id"), simulation["task_id"]
    rollout.task = {"ground_truth": task.get("evaluation_criteria"), "source_key": simulation["task_id"], "extra": {name: task[name] for name in ("description", "user_scenario", "initial_state") if task.get(name)}}  # fmt: skip
    rest = {name: value for name, value in simulation.items() if name not in _PLACED and value is not None}
    details = {name: value for name, value in verdict.items() if name not in ("reward", "reward_breakdown") and value}
    more = {"user_messages": users} if users else {}
    rollout.extra = {_FORMAT: {**rest, **more, **({"reward_info": details} if details else {})}}
    return [rollout]


def _seen(messages: list[Row], gaps: set[str]) -> tuple[list[Row], list[Row]]:
    """The messages that the agent saw or said, as chat messages, and the user's own tool calls and results."""
    seen: list[Row] = []
    users: list[Row] = []
    for message in [one for each in messages for one in each.get("tool_messages") or [each]]:
        calls = message.get("tool_calls") or []
        by_user = message.get("requestor") == "user" or (message["role"] == "user" and bool(calls))
        if by_user:
            gaps.add("user_tools_left_out")
            users.append(
                {name: message[name] for name in ("role", "content", "tool_calls", "id", "error") if message.get(name)}
            )
        if message["role"] == "tool":
            told = {
                "role": "tool",
                "content": message.get("content"),
                "tool_call_id": message.get("id"),
                "is_error": message.get("error"),
            }
            seen += [] if by_user else [told]
        elif not (by_user and not message.get("content")):
            reasoning = present(message, "raw_data.message.reasoning_content") or message.get("reasoning_content")
            told = {"role": message["role"], "content": message.get("content"), "reasoning_content": reasoning}
            own = [
                {"id": call.get("id"), "name": call["name"], "arguments": call.get("arguments")}
                for call in calls
                if not by_user
            ]
            seen.append(told | ({"tool_calls": own} if own else {}))
    return seen, users
