"""What a run is to collect: the slots of its plan, and which of them the store has already."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.errors import ConfigError
from ..store.ids import hash_id, slot_id
from ..store.lance_store import LanceStore, quote
from ..store.task import Task
from .episode import Slot

Retry = Callable[[Mapping[str, Any]], bool]
"""Whether a slot whose last attempt has this status and error_type gets another one."""


def failed(attempt: Mapping[str, Any]) -> bool:
    """Whether it ended without a verdict, whatever the reason."""
    return attempt["status"] in ("error", "timeout", "aborted")


def unanswered(attempt: Mapping[str, Any]) -> bool:
    """Whether the fault is the engine's and not the policy's. A refusal is an answer."""
    return attempt["status"] == "aborted" or (attempt["status"] == "error" and attempt["error_type"] == "engine")


@dataclass(frozen=True)
class Plan:
    """The slots of tasks × repeats, task by task.

    Attributes:
        tasks: (task, task_id, prompt_id), equal tasks once.
        last: slot_id to the last attempt at it: attempt, status and error_type.
        skipped: Slots that are filled, and stay as they are.
        failed_before: Those of them whose last attempt failed.
        sampled_before: Tokens sampled by what the run has in the store.
    """

    run_id: str
    step: int | None
    tasks: Sequence[tuple[Task, str, str]]
    num_repeats: int
    retry: Retry | None
    last: Mapping[str, Mapping[str, Any]]
    skipped: int = 0
    failed_before: int = 0
    sampled_before: int = 0

    @property
    def planned(self) -> int:
        """All slots, filled or not."""
        return len(self.tasks) * self.num_repeats

    def slots(self) -> Iterator[Slot]:
        """Those still to fill. Made on demand: a plan may be of millions."""
        for task, task_id, prompt_id in self.tasks:
            for sample in range(self.num_repeats):
                before = self._before(task_id, sample)
                if before is None or (self.retry is not None and self.retry(before)):
                    attempt = 0 if before is None else before["attempt"] + 1
                    yield Slot(self.run_id, self.step, task, task_id, prompt_id, sample, attempt)

    def _before(self, task_id: str, sample: int) -> Mapping[str, Any] | None:
        return self.last.get(slot_id(self.run_id, self.step, task_id, sample)) if self.last else None


def make_plan(
    store: LanceStore | None,
    run_id: str,
    tasks: Iterable[Task],
    num_repeats: int,
    step: int | None = None,
    retry: Retry | None = None,
) -> Plan:
    """The plan of a run, next to what the store has of it. Raises ConfigError for less than one rollout a task.

    Args:
        store: None has nothing.
        step: Optimizer step the rollouts are for; None outside online training.
        retry: Slots whose last attempt it is true of get another one; None is no slot.
    """
    if num_repeats < 1:
        raise ConfigError(f"num_repeats is {num_repeats}.", "Ask for at least one rollout a task.")
    listed = list(_distinct(tasks))
    where = f"run_id = {quote(run_id)} and step " + ("is null" if step is None else f"= {step}")
    columns = ["slot_id", "attempt", "status", "error_type", "n_sampled_tokens"]
    rows = store.read("rollouts", columns, where).to_pylist() if store is not None else []
    last = {row["slot_id"]: row for row in sorted(rows, key=lambda row: row["attempt"])}
    bare = Plan(run_id, step, listed, num_repeats, retry, last)
    if not last:
        return bare
    found = [
        before
        for _, task_id, _ in listed
        for n in range(num_repeats)
        if (before := bare._before(task_id, n)) is not None
    ]
    kept = [before for before in found if not (retry is not None and retry(before))]
    return Plan(
        run_id, step, listed, num_repeats, retry, last, len(kept), sum(map(failed, kept)),
        sum(row["n_sampled_tokens"] or 0 for row in rows),
    )  # fmt: skip


def rollout_seed(seed: int | None, slot: Slot) -> int | None:
    """The seed of one rollout: 48 bits of a hash, so that engines of any integer width take it. None stays None."""
    if seed is None:
        return None
    return int(hash_id("seed", seed, slot.task_id, slot.sample_index, slot.step, slot.attempt)[:12], 16)


def _distinct(tasks: Iterable[Task]) -> Iterator[tuple[Task, str, str]]:
    """Tasks with their ids, equal ones once: two rows of a file may be the same task, and slots tell tasks apart by id."""
    seen: set[str] = set()
    for task in tasks:
        task_id, prompt_id = _ids(task)
        if task_id not in seen:
            seen.add(task_id)
            yield task, task_id, prompt_id


def _ids(task: Task) -> tuple[str, str]:
    """task_id and prompt_id; of a task that is no Unicode text, ids of its escaped form, under which no table has it."""
    try:
        return task.task_id, task.prompt_id
    except UnicodeEncodeError:
        return hash_id("task", ascii(task)), hash_id("prompt", ascii(task.messages))
