"""Adds tasks to a store and reads them."""

from collections.abc import Iterable
from typing import Any

from ..store.appending import insert_if_absent
from ..store.lance_store import LanceStore, quote
from ..store.rows import task_rows
from ..store.task import Prompt, Task
from .config import TasksConfig
from .registry import generated_tasks

_PROMPTS_AT_ONCE = 500


def store_tasks(store: LanceStore, tasks: Iterable[Task]) -> int:
    """Adds tasks and their prompts to the store, prompts first, and returns the number of new tasks."""
    rows = task_rows(tasks).batches()
    if not rows:
        return 0
    insert_if_absent(store, "prompts", rows["prompts"])
    return insert_if_absent(store, "tasks", rows["tasks"])


def generate_tasks(config: TasksConfig) -> dict[str, list[Task]]:
    """The tasks of a configuration by split. Raises ConfigError for an environment that is not known or has no such split."""
    return generated_tasks(
        config.name, config.splits, config.count, config.tables, config.tasks, config.seed, config.tasks_split
    )


def add_tasks(store: LanceStore, config: TasksConfig) -> list[dict[str, Any]]:
    """Generates tasks and adds the new ones to the store: one dict per split with environment, split, tasks, new. Errors as of `generate_tasks`."""
    made = generate_tasks(config)
    return [
        {"environment": config.name, "split": split, "tasks": len(tasks), "new": store_tasks(store, tasks)}
        for split, tasks in made.items()
    ]


class StoredTasks:
    """The tasks of one environment (None: of all) that have a ground truth, by id and by prompt."""

    def __init__(self, store: LanceStore, environment: str | None) -> None:
        of = f"environment = {quote(environment)} and " if environment is not None else ""
        rows = store.read("tasks", filter=f"{of}ground_truth is not null").to_pylist()
        prompts = read_prompts(store, sorted({row["prompt_id"] for row in rows}))
        self._by_id = {row["task_id"]: Task.from_row(row, prompts[row["prompt_id"]]) for row in rows}
        self._by_prompt: dict[str, list[str]] = {}
        for row in rows:
            self._by_prompt.setdefault(row["prompt_id"], []).append(row["task_id"])

    def find(self, task_id: str | None, prompt_id: str | None) -> Task | None:
        """The task of that id; else the one task with that prompt, for rollouts whose source named none; else None."""
        if task_id in self._by_id:
            return self._by_id[task_id]
        same_prompt = self._by_prompt.get(prompt_id or "", [])
        return self._by_id[same_prompt[0]] if len(same_prompt) == 1 else None


def read_prompts(store: LanceStore, prompt_ids: list[str]) -> dict[str, Prompt]:
    """Prompts by id, of those that the store has."""
    found: dict[str, Any] = {}
    for start in range(0, len(prompt_ids), _PROMPTS_AT_ONCE):
        some = ", ".join(quote(prompt_id) for prompt_id in prompt_ids[start : start + _PROMPTS_AT_ONCE])
        for row in store.read("prompts", filter=f"prompt_id in ({some})").to_pylist():
            found[row["prompt_id"]] = Prompt.from_row(row)
    return found
