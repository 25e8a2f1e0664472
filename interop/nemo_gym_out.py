"""Rollouts as NeMo Gym's files of today's shape: results, the inputs beside them, and the failures."""

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.json_text import to_json
from .lines import whole_file
from .parts import converted, responses_part
from .responses import flat_tools, input_items, output_items
from .rollout import FileRollout, Row, keepsake
from .source_record import source_record
from .tokens import calls_of

_FORMAT = "nemo-gym"
# Upstream writes the fields that nobody set as null, and so do we.
_PARAMS = (
    "background", "include", "instructions", "max_tool_calls", "metadata", "model", "previous_response_id", "prompt", "reasoning",
    "service_tier", "store", "text", "top_logprobs", "truncation", "user", "stream",
)  # fmt: skip
_RESPONSE = (
    "incomplete_details", "instructions", "metadata", "background", "conversation", "max_output_tokens", "max_tool_calls",
    "previous_response_id", "prompt", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "text", "top_logprobs",
    "truncation", "usage", "user",
)  # fmt: skip
_TOKENS = {"token_ids", "loss_mask", "logprobs", "prompt_token_ids"}
HELD = {
    "sample_index", "attempt", "policy_id", "temperature", "top_p", "max_tokens", "reward", "reward_components",
    "error_message", "task.ground_truth", "task.category", *_TOKENS,
}  # fmt: skip
# What their task files call our environment, and the agent that plays it.
_NAMES = {"workplace": ("workplace_assistant", "workplace_assistant_simple_agent")}


def held(rollout: FileRollout) -> set[str]:
    """The columns a row has a place for; those of tokens only where each token's call is known."""
    return HELD if rollout.get("token_ids") is None or calls_of(rollout) is not None else HELD - _TOKENS


def record(rollouts: list[FileRollout], plain: bool = True) -> Row:
    """The result row of one rollout, without indices.

    Args:
        plain: Leave out the key `rollhouse`, under which the other columns travel.
    """
    [rollout] = rollouts
    columns = rollout.columns
    tools = flat_tools(rollout.tools)
    row: Row = {
        "responses_create_params": _params(rollout, tools),
        "response": _response(rollout, tools),
        "reward": columns.get("reward"),
        "_ng_rollout_index": columns.get("sample_index"),
        "agent_ref": {"type": "responses_api_agents", "name": _agent(rollout)},
    }
    components = columns.get("reward_components") or []
    if any(part["weight"] is not None or part["name"] in row for part in components):
        row["reward_components"] = {
            part["name"]: {"value": part["value"], "weight": part["weight"]} for part in components
        }
    else:
        row |= {part["name"]: part["value"] for part in components}
    row |= {name: value for name, value in _verifier_fields(rollout).items() if value is not None}
    if not plain:
        row["rollhouse"] = keepsake(rollout, held(rollout))
    return row


def todays_shape(built: Row, row: Row) -> Row:
    """The source's row as an export shall give it back: itself, or for the older shape its fields in today's."""
    if "response" in row or "output" not in row:
        return row
    params = {**built["responses_create_params"], **row["responses_create_params"]}
    params |= {name: built["responses_create_params"][name] for name in ("input", "tools")}
    rest = {name: value for name, value in row.items() if name not in ("output", "responses_create_params")}
    return {**built, **rest, "responses_create_params": params}


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes results, `<stem>_materialized_inputs.jsonl` and `<stem>_failures.jsonl`.

    Rollouts that the store imported from this format come out as they were; others are numbered in order: tasks by first appearance, and
    the rollouts of each.
    """
    tasks: dict[str, int] = {}
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        results, inputs, failures = (
            stack.enter_context(whole_file(file))
            for file in (path, *(path.with_name(f"{path.stem}_{name}.jsonl") for name in ("materialized_inputs", "failures")))
        )  # fmt: skip
        for rollout in (rollout for rollouts in episodes for rollout in rollouts):
            row, failed = _row(rollout, tasks, counts, plain)
            if "_ng_task_index" in row:
                inputs.write(_line(_input_row(rollout, row)))
            (failures if failed else results).write(_line(row))


def _row(rollout: FileRollout, tasks: dict[str, int], counts: Counter[str], plain: bool) -> tuple[Row, bool]:
    if _FORMAT in rollout.extra:
        # Without its task, as it was when the overlay was made.
        row = source_record(record, [replace(rollout, task=None)], rollout.extra[_FORMAT])
        return row, "_ng_failure_class" in row
    task, rollout = rollout.get("task_id"), converted(rollout, responses_part)
    row = {
        **record([rollout], plain),
        "_ng_task_index": tasks.setdefault(task, len(tasks)),
        "_ng_rollout_index": counts[task],
    }
    counts[task] += 1
    failed = rollout.get("status") in ("error", "timeout", "aborted")
    if failed:
        row |= {"_ng_failure_class": rollout.get("error_type") or rollout.get("status"), "_ng_failure_terminal": False}
    return row, failed


def _input_row(rollout: FileRollout, row: Row) -> Row:
    names = ("responses_create_params", "_ng_task_index", "_ng_rollout_index", "agent_ref")
    return {**{name: row[name] for name in names if name in row}, **_verifier_fields(rollout)}


def _params(rollout: FileRollout, tools: list[Row]) -> Row:
    columns = rollout.columns
    return {
        **dict.fromkeys(_PARAMS),
        "input": input_items(rollout.prompt),
        "tools": tools,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "temperature": columns.get("temperature"),
        "top_p": columns.get("top_p"),
        "max_output_tokens": columns.get("max_tokens"),
    }


def _response(rollout: FileRollout, tools: list[Row]) -> Row:
    columns = rollout.columns
    started = columns.get("started_at")
    response: Row = {
        **dict.fromkeys(_RESPONSE),
        "id": f"resp_{columns.get('rollout_id')}",
        "created_at": started.timestamp() if started else 0.0,
        "error": None,
        "model": columns.get("policy_id"),
        "object": "response",
        "output": output_items(rollout.messages, calls_of(rollout)),
        "parallel_tool_calls": False,
        "temperature": columns.get("temperature"),
        "tool_choice": "auto",
        "tools": tools,
        "top_p": columns.get("top_p"),
        "status": "completed",
    }
    if columns.get("status") == "truncated" and columns.get("stop_reason") == "length":
        response |= {"incomplete_details": {"reason": "max_output_tokens"}, "status": "incomplete"}
    if columns.get("status") in ("error", "timeout", "aborted"):
        error = {"code": "server_error", "message": columns.get("error_message") or columns["status"]}
        response |= {"error": error, "status": "failed"}
    return response


def _agent(rollout: FileRollout) -> str:
    agent, environment = rollout.get("agent"), rollout.get("environment")
    return agent if agent not in (None, "main") else _NAMES.get(environment, (environment, environment))[1]


def _verifier_fields(rollout: FileRollout) -> Row:
    """What upstream's verifiers want at the top level."""
    task = rollout.task
    if task is None:
        return {}
    environment = rollout.get("environment")
    key = task.get("source_key")
    return {
        "id": int(key) if key is not None and key.isdecimal() else key,
        "ground_truth": task.get("ground_truth"),
        "category": task.get("category"),
        "environment_name": _NAMES.get(environment, (environment,))[0],
    }


def _line(row: Any) -> str:
    return to_json(row) + "\n"
