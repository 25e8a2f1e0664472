"""Against the real tables: every verdict and every tool output agrees with NeMo Gym 0.4.0."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace.toolbox import TOOLS
from rollhouse.store.messages import ToolCall


@pytest.fixture(scope="module")
def real(conformance: Path) -> WorkplaceEnvironment:
    return WorkplaceEnvironment(conformance / "tables", conformance / "tasks.jsonl")


def tool_calls(entries: list[dict[str, Any]]) -> list[ToolCall]:
    return [ToolCall("", entry["name"], entry["arguments"]) for entry in entries]


def same(left: Any, right: Any) -> bool:
    """Equal in value, type and key order, where missing cells are not-a-number."""
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


def test_every_verdict_agrees(real: WorkplaceEnvironment, conformance: Path) -> None:
    tasks = {task.source_key: task for task in real.tasks("train")}
    verdicts = [json.loads(line) for line in (conformance / "verdicts.jsonl").open()]
    wrong = [
        (verdict["task_id"], verdict["kind"])
        for verdict in verdicts
        if real.score(tasks[str(verdict["task_id"])], tool_calls(verdict["calls"])).reward != verdict["reward"]
    ]
    assert len(verdicts) > 1000 and wrong == []


def test_every_ground_truth_earns_the_reward(real: WorkplaceEnvironment) -> None:
    tasks = list(real.tasks("train"))
    assert len(tasks) > 300
    assert all(real.score(task, tool_calls(task.ground_truth)).passed for task in tasks)
    assert all({tool["function"]["name"] for tool in task.tools} == set(TOOLS) for task in tasks)


def test_every_tool_output_agrees(real: WorkplaceEnvironment, conformance: Path) -> None:
    wrong = []
    for line in (conformance / "tool_sessions.jsonl").open():
        office = real.office.copy()
        for call in json.loads(line)["calls"]:
            output = TOOLS[call["name"]].call(office, call["arguments"])
            wrong += [] if same(output, call["output"]) else [(call["name"], call["arguments"], output)]
    assert wrong == []


def test_new_rows_get_the_next_ids(real: WorkplaceEnvironment) -> None:
    office = real.office.copy()
    event = {"event_name": "a", "participant_email": "b@c.d", "event_start": "2023-12-01", "duration": "5"}
    assert TOOLS["calendar_create_event"].call(office, event) == "00000300"
    TOOLS["email_send_email"].call(office, {"recipient": "a@b.c", "subject": "s", "body": "b"})
    assert office.emails.cells("email_id")[-1] == "500"
    customer = {"customer_name": "a", "assigned_to_email": "b", "status": "any"}
    assert TOOLS["customer_relationship_manager_add_customer"].call(office, customer) == "00000200"
