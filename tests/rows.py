"""Rollouts that look like real ones, for tests of whatever reads a store."""

from datetime import UTC, datetime
from typing import Any

from rollhouse.store.messages import Message, ToolCall, VersionSpan
from rollhouse.store.rollout import Rollout
from rollhouse.store.rows import rollout_rows, task_rows
from rollhouse.store.task import PROMPT_TOKENS, PROMPTS, TASKS, Task

TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}},
)
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def sum_task(text: str = "Add 1 and 2.", category: str = "sums") -> Task:
    """A task of a prompt with one tool."""
    prompt = (Message("user", text),)
    return Task("calculator", prompt, TOOLS, {"answer": 3}, category=category, created_at=STARTED)


def sum_rollout(
    run_id: str, sample_index: int = 0, *, text: str = "Add 1 and 2.", step: int | None = None, attempt: int = 0, **columns: Any
) -> Rollout:  # fmt: skip
    """One rollout of that task, its ids filled in: a call, its answer, a closing word. `columns` replace what stands here."""
    given: dict[str, Any] = {
        "run_id": run_id,
        "step": step,
        "task": sum_task(text),
        "sample_index": sample_index,
        "attempt": attempt,
        "policy_id": "scripted",
        "policy_version": 0,
        "policy_version_last": 0,
        "version_spans": [VersionSpan(0, 0)],
        "tokenizer_hash": "tok",
        "template_hash": "tpl",
        "engine": "scripted",
        "messages": [
            Message("assistant", None, (ToolCall("call_0", "add", '{"a": 1, "b": 2}'),)),
            Message("tool", "3", tool_call_id="call_0"),
            Message("assistant", "It is 3."),
        ],
        "token_ids": [10, 11, 12, 13],
        "loss_mask": [1, 1, 0, 1],
        "logprobs": [-0.5, -0.25, -0.125],
        "prompt_token_ids": [1, 2, 3],
        "reward": 1.0,
        "passed": True,
        "scorer": "calculator",
        "scorer_version": "1",
        "status": "completed",
        "stop_reason": "stop",
        "started_at": STARTED,
        "gaps": [],
    }
    [placed] = rollout_rows([Rollout(**(given | columns))], run_id).rollouts
    return placed


def rollout_row(run_id: str, sample_index: int = 0, **columns: Any) -> dict[str, Any]:
    """The row of `rollouts` of a `sum_rollout`, for what is appended raw; values that no rollout takes may replace some."""
    slot = {name: columns.pop(name) for name in ("text", "step", "attempt") if name in columns}
    return sum_rollout(run_id, sample_index, **slot).to_row() | columns


def prompt_row(text: str = "Add 1 and 2.") -> dict[str, Any]:
    """The row of `prompts` of that task."""
    return PROMPTS.row(sum_task(text).prompt)


def task_row(text: str = "Add 1 and 2.", category: str = "sums") -> dict[str, Any]:
    """The row of `tasks`."""
    return TASKS.row(task_rows([sum_task(text, category)]).tasks[0])


def prompt_tokens_row(text: str = "Add 1 and 2.") -> dict[str, Any]:
    """The row of `prompt_tokens`."""
    return PROMPT_TOKENS.row(sum_rollout("r", text=text).prompt_tokens())
