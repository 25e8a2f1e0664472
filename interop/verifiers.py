"""verifiers v1 `traces.jsonl`: one episode a line; each trace, or each branch of one that branches, is a rollout.

A trace is a graph of messages, and each node holds the tokens it adds. A row of ours is one path from a root to a leaf. How the tokens are
split over the nodes is kept in `extra`, so that they need not be stored twice; of a trace that branches the whole graph is kept.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..store.content import is_empty
from ..store.messages import Message
from ..store.reading import MessageReader
from ..store.tool_schemas import read_tools
from .lines import write_objects
from .parts import chat_part, converted
from .rollout import FileRollout, Row, keepsake, take_keepsake, unread_fields, unread_gaps
from .source_record import source_record
from .storing import Source
from .verifiers_nodes import NODES, nodes_hold, nodes_of, place_tokens

_FORMAT = "verifiers"
HELD = {
    "run_id", "step", "group_id", "episode_id", "agent", "environment", "policy_id", "policy_version", "policy_version_last",
    "temperature", "top_p", "max_tokens", "token_ids", "loss_mask", "logprobs", "prompt_token_ids", "reward", "reward_components",
    "status", "stop_reason", "error_type", "error_message", "started_at",
}  # fmt: skip

# Fields of a node, a trace and an episode that have a column, or that describe the making of the record. The overlay keeps the rest.
_COUNTS = ("num_turns", "num_input_tokens", "num_output_tokens", "num_total_tokens")
_NODE = {"parent", "message", "sampled", "token_ids", "mask", "logprobs", "tools", "timestamp"}
_TRACE = {
    "version", "id", "task", "agent", "tools", "nodes", "calls", "rewards", "metrics", "info", "is_completed", "ok", "stop_condition", "errors",
    "timing", "is_truncated", "is_timeout", "usage", "extra_usage", "root_reply", "reward", "verifiers", *_COUNTS,
}  # fmt: skip
_EPISODE = {
    "version",
    "id",
    "env",
    "group",
    "run",
    "ok",
    "is_timeout",
    "errors",
    "traces",
    "task",
    "timing",
    "usage",
    "timestamp",
    *_COUNTS,
}
_TOKENS = {"token_ids", "loss_mask", "logprobs", "prompt_token_ids"}


def held(rollout: FileRollout) -> set[str]:
    """The columns it has a place for: of tokens with their prompt only, of components where their weighted sum is the reward."""
    places = HELD if rollout.get("token_ids") is None or nodes_hold(rollout) else HELD - _TOKENS
    return places if _is_weighted_sum(rollout) else places - {"reward_components"}


def _is_weighted_sum(rollout: FileRollout) -> bool:
    weighted = [part for part in rollout.get("reward_components") or () if part["weight"] is not None]
    total = sum(part["value"] * part["weight"] for part in weighted)
    return bool(weighted) and math.isclose(total, rollout.get("reward") or 0.0, rel_tol=1e-6)


def read(episode: Row, source: Source) -> list[FileRollout]:
    """The rollouts of an episode, in the order of its traces and their branches. A line that is one bare trace is read as an episode."""
    traces = episode["traces"] if "nodes" not in episode else [episode]
    if not traces:
        raise ValueError("the episode has no trace")
    rollouts = []
    for number, trace in enumerate(traces):
        paths = _paths(trace.get("nodes") or [])
        for branch, path in enumerate(paths):
            rollout = _rollout(episode, trace, path, branch)
            rollout.extra[NODES] |= {"trace": number}
            rollouts.append(rollout)
    for rollout in rollouts:
        rollout.extra[NODES]["of"] = len(rollouts)
    return rollouts


def record(rollouts: list[FileRollout], plain: bool = True, apart: bool = False) -> Row:
    """The episode of some rollouts. What is unknown is left out, as upstream does.

    Args:
        apart: Write each branch as a trace of its own; else the first branch of a trace stands for its graph, as the overlay expects.
    """
    ordered = _in_order(rollouts)
    first = ordered[0]
    policy = {"start": first.get("policy_version"), "end": first.get("policy_version_last")}
    work = (
        {"type": "train", "step": first.get("step"), "policy": _told(policy)} if first.get("step") is not None else None
    )
    ok = all(rollout.get("status") != "error" for rollout in ordered)
    return _told(
        {
            "id": first.get("episode_id"),
            "env": {"id": first.get("environment")},
            "group": {"id": first.get("group_id")},
            "run": _told({"id": first.get("run_id"), "work": work}),
            "ok": ok,
            "errors": [],
            "traces": [_trace(rollout, plain) for rollout in ordered if apart or not rollout.get("branch")],
        }
    )


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a file; whole episodes that the store imported from this format come out as they were."""
    write_objects((_line(rollouts, plain) for rollouts in episodes), path)


def _line(rollouts: list[FileRollout], plain: bool) -> Row:
    ordered = _in_order(rollouts)
    first = ordered[0]
    # The overlay fits the episode as it was read; of a part of it only the columns are written.
    if _FORMAT in first.extra and len(ordered) == first.extra[NODES]["of"]:
        return source_record(record, ordered, first.extra[_FORMAT])
    return _todays(record([converted(rollout, chat_part) for rollout in ordered], plain, apart=True))


def _todays(episode: Row) -> Row:
    """The episode as verifiers 0.4 validates it: with its task, and a run that names its kind."""
    run = {"type": "train" if "work" in episode["run"] else "eval", **episode["run"]}
    if "work" in run:
        policy = run["work"].get("policy") or {}
        run["work"] = {name: value for name, value in run["work"].items() if name != "policy" or policy.keys() == {"start", "end"}}  # fmt: skip
    return {**episode, "task": episode["traces"][0]["task"], "run": run}


def _in_order(rollouts: list[FileRollout]) -> list[FileRollout]:
    return sorted(rollouts, key=lambda rollout: (rollout.extra.get(NODES, {}).get("trace", 0), rollout.get("branch") or 0))  # fmt: skip


def _told(values: Row) -> Row:
    return {name: value for name, value in values.items() if value is not None}


def _paths(nodes: list[Row]) -> list[list[Row]]:
    """The node paths from a root to each leaf, in the order of the leaves; one empty path for a trace without nodes."""
    parents = {node.get("parent") for node in nodes}
    paths = []
    for leaf in range(len(nodes)):
        if leaf not in parents:
            path, at = [], leaf
            while at is not None:
                path.append(nodes[at])
                parent = nodes[at].get("parent")
                if parent is not None and not 0 <= parent < at:
                    raise ValueError(f"node {at} comes before its parent {parent}")
                at = parent
            paths.append(path[::-1])
    return paths or [[]]


def _rollout(episode: Row, trace: Row, path: list[Row], branch: int) -> FileRollout:
    # A sub-agent's branch has tools of its own, on its root.
    tools = read_tools((path[0].get("tools") if path else None) or trace.get("tools"))
    reader = MessageReader(tools=tools)
    messages, sampled = _messages(reader, path)
    # Few-shot turns that nobody sampled belong to the prompt.
    start = sampled.index(True) if True in sampled else len(messages)
    run, agent, calls = episode.get("run") or {}, trace.get("agent") or {}, trace.get("calls") or []
    rollout = FileRollout(messages[:start], tools, messages[start:], gaps=reader.gaps | unread_gaps(reader.unread), unread=reader.unread)  # fmt: skip
    rollout.gaps |= unread_fields(trace, _TRACE) | (unread_fields(episode, _EPISODE) if episode is not trace else set())
    # Replies that others put into the context are not the policy's.
    rollout.untrained = {at for at, message in enumerate(messages) if at >= start and message.role == "assistant" and not sampled[at]}  # fmt: skip
    work = run.get("work") or {}
    policy = work.get("policy") or {}
    rollout.columns = {
        "environment": (episode.get("env") or {}).get("id") or (episode.get("env") or {}).get("name"),
        "step": work.get("step"),
        "policy_id": next((call["model"] for call in calls if call.get("model")), (agent.get("config") or {}).get("model")),
        "policy_version": policy.get("start"),
        "policy_version_last": policy.get("end"),
        "agent": agent.get("name"),
        "trainable": agent.get("trainable"),
        "branch": branch,
        "n_turns": sum(sampled),
        **_sampling(calls),
        **_verdict(trace),
        **_ending(episode, trace, calls),
        **_times(trace),
    }  # fmt: skip
    if episode.get("id"):
        rollout.columns["episode_id"] = str(episode["id"])
    rollout.task = _task(episode.get("task") or trace.get("task") or {})
    if work.get("type") == "eval":
        rollout.task["split"] = "validation"
    rollout.extra = {NODES: place_tokens(rollout, path, start)}
    rollout.source_run, rollout.group_key = run.get("id"), (episode.get("group") or {}).get("id")
    if trace.get("id"):
        rollout.source_key = [trace["id"], branch] if branch else trace["id"]
    take_keepsake(rollout, _without_ids((trace.get("info") or {}).get("rollhouse")))
    return rollout


def _messages(reader: MessageReader, path: list[Row]) -> tuple[list[Message], list[bool]]:
    """The messages of a path, and parallel to them whether the policy sampled each."""
    messages: list[Message] = []
    sampled: list[bool] = []
    for number, node in enumerate(path):
        found = reader.read_one(node["message"], f"nodes[{number}].message")
        messages += found
        sampled += [bool(node.get("sampled"))] * len(found)
    for number, node in enumerate(path):
        reader.unread |= {f"nodes[{number}].{name}": node[name] for name in node.keys() - _NODE if not is_empty(node[name])}  # fmt: skip
    return messages, sampled


def _without_ids(kept: Row | None) -> Row | None:
    """The trace names itself, its run and its group."""
    return kept and {name: value for name, value in kept.items() if name not in ("run_id", "rollout_id", "group_id")}


def _task(task: Row) -> Row:
    data = task.get("data") or {}
    truth = data.get("answer", data.get("ground_truth"))
    return {"ground_truth": truth, "category": data.get("category"), "source_key": task.get("key")}


def _sampling(calls: list[Row]) -> Row:
    told = (calls[0].get("sampling") or {}) if calls else {}
    return {name: told.get(name) for name in ("temperature", "top_p", "max_tokens")}


def _verdict(trace: Row) -> Row:
    """Weighted rewards and unweighted metrics are components; the reward is the weighted sum."""
    rewards = {name: value for name, value in (trace.get("rewards") or {}).items() if value is not None}
    components = [{"name": name, "value": value["score"], "weight": value.get("weight", 1.0)} for name, value in rewards.items()]  # fmt: skip
    components += [
        {"name": name, "value": value, "weight": None} for name, value in (trace.get("metrics") or {}).items()
    ]
    reward = sum(value["score"] * value.get("weight", 1.0) for value in rewards.values()) if rewards else None
    return {"reward": reward, "reward_components": components}


def _ending(episode: Row, trace: Row, calls: list[Row]) -> Row:
    errors = trace.get("errors") or episode.get("errors") or []
    stop = trace.get("stop_condition")
    if errors or trace.get("ok") is False:
        error = errors[0] if errors else {}
        columns = {"error_type": error.get("type"), "error_message": error.get("message")}
        return {"status": "error", "stop_reason": stop or "error", **columns}
    if trace.get("is_timeout") or episode.get("is_timeout"):
        return {"status": "timeout", "stop_reason": stop or "timeout"}
    if calls and calls[-1].get("finish_reason") == "length":
        return {"status": "truncated", "stop_reason": stop or "length"}
    truncated = stop is not None and stop.startswith("max_")
    return {"status": "truncated" if truncated else "completed", "stop_reason": stop or "stop"}


def _times(trace: Row) -> Row:
    started = (trace.get("timing") or {}).get("start")
    return {"started_at": datetime.fromtimestamp(started, UTC) if started else None}


def _trace(rollout: FileRollout, plain: bool) -> Row:
    columns = rollout.columns
    sampling = _told({name: columns.get(name) for name in ("temperature", "top_p", "max_tokens")})
    nodes = nodes_of(rollout)
    calls = [
        _told({"node": index, "model": columns.get("policy_id"), "sampling": sampling or None, "finish_reason": "stop"})
        for index, node in enumerate(nodes)
        if node["sampled"]
    ]
    if calls and columns.get("status") == "truncated" and columns.get("stop_reason") == "length":
        calls[-1]["finish_reason"] = "length"
    failed = columns.get("status") in ("error", "timeout", "aborted")
    error = {"type": columns.get("error_type") or columns.get("status"), "message": columns.get("error_message") or ""}
    started: Any = columns.get("started_at")
    components = columns.get("reward_components") or []
    rewards, metrics = {}, {}
    if _is_weighted_sum(rollout):
        rewards = {
            part["name"]: {"score": part["value"], "weight": part["weight"]}
            for part in components
            if part["weight"] is not None
        }
        metrics = {part["name"]: part["value"] for part in components if part["weight"] is None}
    elif columns.get("reward") is not None:
        rewards = {"reward": {"score": columns["reward"], "weight": 1.0}}
        metrics = {part["name"]: part["value"] for part in components}
    return _told(
        {
            "version": 1,
            "id": columns.get("rollout_id"),
            "task": {"type": "Task", "data": _task_data(rollout), **_told({"key": (rollout.task or {}).get("source_key")})},
            "agent": {
                "name": columns.get("agent"),
                "trainable": columns.get("trainable"),
                "config": _told({"model": columns.get("policy_id")}),
            },
            "tools": [tool["function"] for tool in rollout.tools],
            "nodes": nodes,
            "calls": calls,
            "rewards": rewards,
            "metrics": metrics,
            "info": {} if plain else {"rollhouse": keepsake(rollout, held(rollout))},
            "is_completed": columns.get("status") != "aborted",
            "ok": not failed,
            "stop_condition": columns.get("stop_reason"),
            "errors": [error] if failed else [],
            "timing": {"start": started.timestamp()} if started else None,
        }
    )  # fmt: skip


def _task_data(rollout: FileRollout) -> Row:
    task = rollout.task or {}
    return _told({"answer": task.get("ground_truth"), "category": task.get("category")})
