"""Tasks as rows: what `tasks` and `prompts` hold of one."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ..base.remembered import remembered
from ..store.lance_store import LanceStore
from ..store.task import Task


def _tools_text(tools: tuple[Mapping[str, Any], ...]) -> str:
    return json.dumps([dict(tool) for tool in tools], ensure_ascii=False)


_tools_json = remembered(_tools_text, 64)


def task_rows(task: Task, task_id: str, prompt_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task's row of `prompts` and its row of `tasks`; the ids are given because computing them costs a hash of the prompt."""
    prompt = {
        "prompt_id": prompt_id,
        "messages": [message.to_row() for message in task.messages],
        "tools": _tools_json(task.tools),
    }
    row = {
        "task_id": task_id,
        "environment": task.environment,
        "prompt_id": prompt_id,
        "ground_truth": _json(task.ground_truth),
        "state_hash": task.state_hash,
        "state": _json(task.state),
        "split": task.split,
        "category": task.category,
        "difficulty": task.difficulty,
        "source_key": task.source_key,
        "extra": _json(dict(task.extra) or None),
        "created_at": datetime.now(UTC),
    }
    return prompt, row


def store_tasks(store: LanceStore, tasks: Iterable[Task]) -> int:
    """Puts tasks and their prompts into the store and returns how many tasks were new; prompts first, so that none is missing."""
    rows = [task_rows(task, task.task_id, task.prompt_id) for task in tasks]
    store.insert_if_absent("prompts", [prompt for prompt, _ in rows])
    return store.insert_if_absent("tasks", [row for _, row in rows])


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
