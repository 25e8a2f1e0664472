"""tau2-bench's `results.json`: simulations of an agent with a simulated user, in it or in a folder `simulations` beside it.

The user has tools of its own, which the agent never sees: their calls and results are left out of the messages. The greeting that opens a
simulation is not the model's: it is part of the prompt.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

from ..store.reading import MessageReader
from ..store.tool_schemas import read_tools
from .files import load_json, opened, text_of_bytes
from .lines import Line, Quarantine
from .rollout import FileRollout, Row, unread_fields
from .sample import FileSample
from .storing import Source
from .values import present

_FORMAT = "tau2"
_META, _FOLDER = "results.json", "simulations"
_STATUS = {"max_steps": "truncated", "context_window_exceeded": "truncated", "timeout": "timeout"}
_PLACED = {"id", "task_id", "trial", "messages", "reward_info", "termination_reason", "start_time", "end_time", "duration", "seed"}  # fmt: skip
# Kept in `extra`: what a simulation cost, and how it was run.
_BOOKKEEPING = {
    "timestamp",
    "agent_cost",
    "user_cost",
    "agent_usage",
    "user_usage",
    "mode",
    "policy",
    "hallucination_retries_used",
}
# Where the description in a docstring ends.
_SECTIONS = re.compile(r"\n\s*(?:Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):")


def signs(sample: FileSample) -> str | None:
    """An object of simulations, or the folder of one whose simulations are files."""
    if sample.kind == "object" and sample.have("tasks", "info.environment_info") and sample.any("simulations") | sample.any("simulation_index"):  # fmt: skip
        return "it is an object with simulations, tasks and info.environment_info"
    if sample.kind == "folder" and _META in sample.members and any(name.startswith(f"{_FOLDER}/") for name in sample.members):  # fmt: skip
        return "it has results.json and a folder of simulations"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The simulations of a file or folder, each with its task and the file's `info`; memory holds the tasks."""
    file = path / _META if path.is_dir() else path
    info = next(_items(file, "info"), {})
    tasks = {str(task.get("id")): task for task in _items(file, "tasks.item") if isinstance(task, dict)}
    for line, simulation in _simulations(file, quarantine):
        if not isinstance(simulation, dict):
            quarantine.add(line, "a simulation is not an object")
            continue
        task = tasks.get(str(simulation.get("task_id"))) or {}
        yield line, {"info": info, "task": task, "simulation": simulation}
        if on_progress:
            on_progress(line.end)


def _items(file: Path, prefix: str) -> Iterator[Any]:
    import ijson

    with opened(file) as (content, _):
        yield from ijson.items(content, prefix, use_float=True)


def _simulations(file: Path, quarantine: Quarantine) -> Iterator[tuple[Line, Any]]:
    """Those inside the file, then those of the folder beside it. A simulation that the file's index names and that is missing is set aside."""
    number = 0
    for number, simulation in enumerate(_items(file, "simulations.item"), start=1):
        yield Line(number, "", False, number, file), simulation
    indexed = {str(entry.get("id")) for entry in _items(file, "simulation_index.item") if isinstance(entry, dict)}
    folder = file.parent / _FOLDER
    beside = sorted(folder.glob("*.json")) if indexed or not number else []
    for at, other in enumerate(beside, start=1):
        indexed.discard(other.stem)
        line = Line(at, "", False, at, other)
        try:
            with opened(other) as (content, _):
                simulation, replaced = load_json(text_of_bytes(content.read()))
        except (ValueError, RecursionError) as error:
            quarantine.add(line, f"it is not JSON ({error})")
            continue
        yield replace(line, replaced=replaced), simulation
    for name in sorted(indexed) if folder.is_dir() or not number else ():
        quarantine.add(Line(0, "", False, 0, file), f"there is no file {_FOLDER}/{name}.json")


def read(record: Row, source: Source) -> list[FileRollout]:
    """One simulation."""
    info, task, simulation = (record[name] for name in ("info", "task", "simulation"))
    signatures = present(info, "environment_info.tool_defs") or {}
    tools = read_tools([_tool(one) for one in (signatures.values() if isinstance(signatures, dict) else signatures)])
    reader = MessageReader(tools=tools)
    if simulation.get("messages") is None:
        raise ValueError("it has no messages: a voice simulation holds ticks, which are not read")
    seen, users = _seen(simulation["messages"], reader.gaps)
    opened = next((index for index, message in enumerate(seen) if message["role"] == "user"), 0)
    start = next((index for index, message in enumerate(seen) if index >= opened and message["role"] == "assistant"), None)  # fmt: skip
    reason = str(simulation.get("termination_reason"))
    failed = "error" in reason
    if start is None and not failed:
        raise ValueError("it holds no reply of the agent")
    start = len(seen) if start is None else start
    rollout = FileRollout(reader.read(seen[:start]), tools, reader.read(seen[start:]), gaps=reader.gaps, unread=reader.unread)  # fmt: skip
    verdict = simulation.get("reward_info") or {}
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
    rollout.task = {
        "ground_truth": task.get("evaluation_criteria"),
        "source_key": simulation["task_id"],
        "extra": _about_task(task, info),
    }
    rest = {name: value for name, value in simulation.items() if name not in _PLACED and value is not None}
    details = {name: value for name, value in verdict.items() if name not in ("reward", "reward_breakdown") and value}
    rollout.gaps |= unread_fields(rest, _BOOKKEEPING)
    more = {"user_messages": users} if users else {}
    rollout.extra = {_FORMAT: {**rest, **more, **({"reward_info": details} if details else {})}}
    return [rollout]


def _tool(signature: Any) -> Any:
    """A tool of the environment as the agent gets it: description and schema of a signature; another form as it is."""
    if not isinstance(signature, dict) or "doc" not in signature:
        return signature
    _, quote, documented = str(signature["doc"]).partition('"""')
    text = dedent("    " + documented.partition('"""')[0]) if quote else str(signature["doc"])
    description = _SECTIONS.split(text)[0].strip()
    return {"name": signature.get("name"), "description": description, "parameters": signature.get("params") or {"type": "object", "properties": {}}}  # fmt: skip


def _about_task(task: Row, info: Row) -> Row:
    """What is known of a task beside its criteria; the policy is what the agent's system prompt was made from."""
    told = {name: task[name] for name in ("description", "user_scenario", "initial_state") if task.get(name)}
    policy = present(info, "environment_info.policy")
    return {**told, "policy": policy} if policy else told


def _seen(messages: list[Row], gaps: set[str]) -> tuple[list[Row], list[Row]]:
    """The messages of the agent's conversation, as chat messages, and the user's own tool calls and results."""
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
