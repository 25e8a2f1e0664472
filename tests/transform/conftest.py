"""A store filled by hand: small known rollouts, written as the collector writes them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rollhouse.store.appending import insert_if_absent
from rollhouse.store.ids import group_id, rollout_id, slot_id
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.task import Task

TOOL = {
    "type": "function",
    "function": {"name": "send", "description": "", "parameters": {"type": "object", "properties": {"to": {}}}},
}


@dataclass
class Filled:
    """A store and what was put into it. Rows are kept back until `write`, which appends them in one commit a table."""

    store: LanceStore
    tasks: dict[str, Task] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)

    def task(
        self, name: str, split: str = "train", text: str | None = None, system: str | None = "Use tools.", **fields: Any
    ) -> Task:
        """A task whose user message is `text`; `fields` override those of Task."""
        prompt = (Message("system", system),) if system else ()
        prompt += (Message("user", text or f"Please do {name}."),)
        values = {"tools": (TOOL,), "ground_truth": [name], "split": split, "source_key": name} | fields
        self.tasks[name] = Task("office", prompt, **values)
        return self.tasks[name]

    def rollout(self, task: str, reward: float | None, index: int = 0, run: str = "c1", **columns: Any) -> str:
        """One rollout of a known task; its response is `to` (default: unique) and `columns` override what is stored."""
        found = self.tasks.get(task) or self.task(task)
        attempt = columns.get("attempt", 0)
        calls = columns.pop("calls", 1)
        to = columns.pop("to", f"{task}-{run}-{index}")
        row = {
            "rollout_id": rollout_id(run, None, found.task_id, index, attempt),
            "slot_id": slot_id(run, None, found.task_id, index),
            "run_id": run,
            "task_id": found.task_id,
            "prompt_id": found.prompt_id,
            "group_id": group_id(run, None, found.task_id),
            "sample_index": index,
            "attempt": attempt,
            "branch": 0,
            "trainable": True,
            "environment": "office",
            "policy_id": "scripted",
            "policy_version": 0,
            "messages": [message.to_row() for message in response(to, calls)],
            "n_turns": calls + 1,
            "n_tool_calls": calls,
            "n_tool_errors": 0,
            "n_parse_failures": 0,
            "reward": reward,
            "passed": None if reward is None else reward >= 1,
            "status": "completed",
        } | columns
        self.rollouts.append(row)
        return row["rollout_id"]

    def write(self, reverse: bool = False) -> None:
        """Appends what waits, in the order given or the opposite one."""
        tasks = list(self.tasks.values())
        prompts = [
            {
                "prompt_id": task.prompt_id,
                "messages": [message.to_row() for message in task.messages],
                "tools": json.dumps(task.tools),
            }
            for task in tasks
        ]
        rows = [
            {
                "task_id": task.task_id,
                "environment": task.environment,
                "prompt_id": task.prompt_id,
                "ground_truth": json.dumps(task.ground_truth),
                "split": task.split,
                "category": task.category,
                "source_key": task.source_key,
            }
            for task in tasks
        ]
        for table, waiting in (
            ("prompts", prompts),
            ("tasks", rows),
            ("rollouts", self.rollouts),
            ("scores", self.scores),
        ):
            insert_if_absent(self.store, table, waiting[::-1] if reverse else waiting)
        self.rollouts, self.scores = [], []

    def snapshot(self, name: str = "s1") -> str:
        """Writes what waits and takes a snapshot."""
        self.write()
        create_snapshot(self.store, name)
        return name


def response(to: str, calls: int) -> list[Message]:
    """`calls` tool calls with their results, then a sentence."""
    messages = []
    for number in range(calls):
        call = ToolCall(f"call_{number}", "send", '{ "to":"' + f"{to}-{number}" + '"}')
        messages += [Message("assistant", "", (call,)), Message("tool", "ok", tool_call_id=call.id)]
    return [*messages, Message("assistant", "Done.")]


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return Filled(LanceStore.create(tmp_path / "store"))
