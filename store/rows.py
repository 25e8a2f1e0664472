"""From rollouts to rows: the one place where a rollout, and what it refers to, becomes rows of the store."""

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pyarrow as pa

from . import ids
from .rollout import Rollout
from .tables import TABLES
from .task import Prompt, PromptTokens, Score, Task


@dataclass
class Rows:
    """Rollouts of one run and what they refer to, each prompt, task and prompt's tokens once."""

    rollouts: list[Rollout] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    prompt_tokens: list[PromptTokens] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)

    def batches(self) -> dict[str, pa.RecordBatch]:
        """The rows by table, in the order in which they are written; tables without rows are left out.

        Raises SchemaMismatch for a value that does not fit its column.
        """
        given = {
            "prompts": self.prompts,
            "prompt_tokens": self.prompt_tokens,
            "tasks": self.tasks,
            "rollouts": self.rollouts,
            "scores": self.scores,
        }
        return {name: TABLES[name].batch(objects) for name, objects in given.items() if objects}


def rollout_rows(
    rollouts: Iterable[Rollout], run_id: str, known: Container[str] = (), places: Counter[str] | None = None
) -> Rows:
    """The rows of some rollouts of a run. The rollouts stay as they are: those without ids are copied.

    Args:
        known: Keys of prompts, tasks and prompts' tokens whose rows are not needed.
        places: By group_id, how many rollouts were given a `sample_index` so far; it counts on. None counts from 0.
    """
    rows, here = Rows(), set()
    places = Counter() if places is None else places

    def new(key: str) -> bool:
        if key in known or key in here:
            return False
        here.add(key)
        return True

    for given in rollouts:
        rollout = placed(given, run_id, places)
        rows.rollouts.append(rollout)
        task, prompt = rollout.task, rollout.prompt
        if prompt is not None and rollout.prompt_id is not None and new(rollout.prompt_id):
            rows.prompts.append(prompt)
        if task is not None and rollout.task_id is not None and new(rollout.task_id):
            if new(task.prompt_id):
                rows.prompts.append(task.prompt)
            rows.tasks.append(_dated(task))
        tokens = rollout.prompt_tokens()
        if tokens is not None and new(tokens.row_id):
            rows.prompt_tokens.append(tokens)
        for score in rollout.scores:
            rows.scores.append(_about(score, rollout, run_id))
    return rows


def task_rows(tasks: Iterable[Task]) -> Rows:
    """The rows of some tasks and their prompts."""
    rows = Rows(tasks=[_dated(task) for task in tasks])
    rows.prompts = list({task.prompt_id: task.prompt for task in rows.tasks}.values())
    return rows


def placed(rollout: Rollout, run_id: str, places: Counter[str]) -> Rollout:
    """The rollout with the ids of its slot in the run; itself when it has them all. Ids that it has stay."""
    if rollout.rollout_id and rollout.slot_id and rollout.run_id and rollout.sample_index is not None:
        return rollout
    step, task = rollout.step, rollout.task_id or ""
    found = rollout.changed(run_id=rollout.run_id or run_id)
    found.group_id = found.group_id or ids.group_id(run_id, step, task)
    if found.sample_index is None:
        found.sample_index = places[found.group_id]
        places[found.group_id] += 1
    slot = (run_id, step, task, found.sample_index)
    found.slot_id = found.slot_id or ids.slot_id(*slot)
    found.rollout_id = found.rollout_id or ids.rollout_id(*slot, found.attempt)
    found.episode_id = found.episode_id or found.rollout_id
    return found


def _dated(task: Task) -> Task:
    if task.created_at is not None:
        return task
    dated = replace(task, created_at=datetime.now(UTC))
    # The ids cost a hash of the prompt, and those that were read stay as they are stored.
    dated.__dict__.update({name: getattr(task, name) for name in ("prompt", "prompt_id", "state_hash", "task_id")})
    return dated


def _about(score: Score, rollout: Rollout, run_id: str) -> Score:
    return replace(
        score,
        rollout_id=score.rollout_id or rollout.rollout_id,
        run_id=score.run_id or run_id,
        created_at=score.created_at or datetime.now(UTC),
    )
