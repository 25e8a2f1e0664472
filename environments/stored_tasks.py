"""Tasks read back from a store."""

import json
from typing import Any

from ..store.lance_store import LanceStore, quote
from ..store.messages import Message
from ..store.task import Task

_PROMPTS_AT_ONCE = 500


class StoredTasks:
    """The tasks of one environment (None: of all) that have a truth, by id and by prompt."""

    def __init__(self, store: LanceStore, environment: str | None) -> None:
        of = f"environment = {quote(environment)} and " if environment is not None else ""
        where = f"{of}ground_truth is not null"
        rows = store.read("tasks", filter=where).to_pylist()
        prompts = _read_prompts(store, sorted({row["prompt_id"] for row in rows}))
        self._by_id = {row["task_id"]: task_from_rows(row, prompts[row["prompt_id"]]) for row in rows}
        self._by_prompt: dict[str, list[str]] = {}
        for row in rows:
            self._by_prompt.setdefault(row["prompt_id"], []).append(row["task_id"])

    def find(self, task_id: str | None, prompt_id: str | None) -> Task | None:
        """The task of that id; else the one task with that prompt, for rollouts whose source did not tell; else None."""
        if task_id in self._by_id:
            return self._by_id[task_id]
        same_prompt = self._by_prompt.get(prompt_id or "", [])
        return self._by_id[same_prompt[0]] if len(same_prompt) == 1 else None


def task_from_rows(row: dict[str, Any], prompt: dict[str, Any]) -> Task:
    """A row of `tasks` and its row of `prompts` as a Task."""

    def value(text: str | None) -> Any:
        return None if text is None else json.loads(text)

    return Task(
        environment=row["environment"],
        messages=tuple(Message.from_row(message) for message in prompt["messages"] or ()),
        tools=tuple(value(prompt["tools"]) or ()),
        ground_truth=value(row["ground_truth"]),
        state=value(row["state"]),
        split=row["split"] or "train",
        category=row["category"],
        difficulty=row["difficulty"],
        source_key=row["source_key"],
        extra=value(row["extra"]) or {},
    )


def _read_prompts(store: LanceStore, prompt_ids: list[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for start in range(0, len(prompt_ids), _PROMPTS_AT_ONCE):
        wanted = ", ".join(quote(prompt_id) for prompt_id in prompt_ids[start : start + _PROMPTS_AT_ONCE])
        for row in store.read("prompts", filter=f"prompt_id in ({wanted})").to_pylist():
            found[row["prompt_id"]] = row
    return found
