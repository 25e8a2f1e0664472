"""Rows that look like real ones, for tests of whatever reads a store."""

from datetime import UTC, datetime
from typing import Any

from rollhouse.store import ids
from rollhouse.store.messages import Message, ToolCall

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
]
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def prompt_row(text: str = "Add 1 and 2.") -> dict[str, Any]:
    """A prompt with one tool."""
    message = Message("user", text)
    key = ids.prompt_id([message.to_openai()], TOOLS)
    return {"prompt_id": key, "messages": [message.to_row()], "tools": ids.canonical_json(TOOLS)}


def task_row(text: str = "Add 1 and 2.", category: str = "sums") -> dict[str, Any]:
    """The task of that prompt."""
    prompt_id = prompt_row(text)["prompt_id"]
    return {
        "task_id": ids.task_id("calculator", prompt_id, {"answer": 3}, None),
        "environment": "calculator",
        "prompt_id": prompt_id,
        "ground_truth": ids.canonical_json({"answer": 3}),
        "split": "train",
        "category": category,
        "created_at": STARTED,
    }


def prompt_tokens_row(text: str = "Add 1 and 2.") -> dict[str, Any]:
    """The prompt's tokens; the writer names the row."""
    prompt_id = prompt_row(text)["prompt_id"]
    return {"prompt_id": prompt_id, "tokenizer_hash": "tok", "template_hash": "tpl", "token_ids": [1, 2, 3]}


def rollout_row(
    run_id: str, sample_index: int = 0, *, text: str = "Add 1 and 2.", step: int | None = None, attempt: int = 0, **columns: Any
) -> dict[str, Any]:  # fmt: skip
    """One rollout of the task of that prompt: a call, its answer, a closing word. `columns` replace what stands here."""
    task = task_row(text)
    messages = [
        Message("assistant", None, (ToolCall("call_0", "add", '{"a": 1, "b": 2}'),)),
        Message("tool", "3", tool_call_id="call_0"),
        Message("assistant", "It is 3."),
    ]
    row = {
        "rollout_id": ids.rollout_id(run_id, step, task["task_id"], sample_index, attempt),
        "slot_id": ids.slot_id(run_id, step, task["task_id"], sample_index),
        "run_id": run_id,
        "step": step,
        "task_id": task["task_id"],
        "prompt_id": task["prompt_id"],
        "group_id": ids.group_id(run_id, step, task["task_id"]),
        "sample_index": sample_index,
        "attempt": attempt,
        "branch": 0,
        "trainable": True,
        "environment": "calculator",
        "policy_id": "scripted",
        "policy_version": 0,
        "policy_version_last": 0,
        "version_spans": [{"start": 0, "version": 0}],
        "engine": "scripted",
        "messages": [message.to_row() for message in messages],
        "token_ids": [10, 11, 12, 13],
        "loss_mask": [1, 1, 0, 1],
        "logprobs": [-0.5, -0.25, -0.125],
        "n_tokens": 4,
        "n_sampled_tokens": 3,
        "n_turns": 2,
        "n_tool_calls": 1,
        "reward": 1.0,
        "passed": True,
        "scorer": "calculator",
        "scorer_version": "1",
        "status": "completed",
        "stop_reason": "stop",
        "started_at": STARTED,
    }
    return row | columns
