"""Many rollouts at once into a house: what is missing of a plan is collected, whatever fails is a row, nothing collected is lost."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from time import perf_counter
from typing import Any

from ..store.errors import ConfigError, SchemaMismatch, one_line
from ..store.house import House, quote
from ..store.ids import hash_id, slot_id
from ..store.runs import Run, get_run
from ..store.writer import RolloutWriter
from .episode import Episode, Slot, play_episode, token_identity
from .task_rows import task_rows
from .types import Environment, Policy, Sampling, Task

Retry = Callable[[Mapping[str, Any]], bool]
"""Whether a slot whose last attempt has this status and error_type gets another one."""
_UNSTORABLE = (SchemaMismatch, UnicodeEncodeError)


def failed(attempt: Mapping[str, Any]) -> bool:
    """Whether it ended without a verdict, whatever the reason."""
    return attempt["status"] in ("error", "timeout", "aborted")


def unanswered(attempt: Mapping[str, Any]) -> bool:
    """Whether it says something about the engine and nothing about the policy. A refusal is an answer."""
    return attempt["status"] == "aborted" or (attempt["status"] == "error" and attempt["error_type"] == "engine")


@dataclass
class CollectSummary:
    """What one call of `collect` did.

    Attributes:
        planned: Rollouts asked for; `skipped` of them were in the house already.
        statuses: Rollouts collected now, by status; errors: by error_type.
        rewards: One per rollout collected now that has a verdict.
        sampled_tokens: 0 for a policy that shows none.
        last_error: Message of the rollout that failed last, None when none did.
        seconds: Wall clock.
    """

    run_id: str
    planned: int
    skipped: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    rewards: list[float] = field(default_factory=list)
    passed: int = 0
    sampled_tokens: int = 0
    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    parse_failures: int = 0
    last_error: str | None = None
    seconds: float = 0.0

    @property
    def collected(self) -> int:
        """Rollouts of this call, failed ones included."""
        return self.statuses.total()

    @property
    def reward_mean(self) -> float | None:
        """None before the first verdict."""
        return fmean(self.rewards) if self.rewards else None

    def add(self, row: dict[str, Any]) -> None:
        """Counts one rollout."""
        self.statuses[row["status"]] += 1
        if row["error_type"]:
            self.errors[row["error_type"]] += 1
            self.last_error = row["error_message"]
        if row["reward"] is not None:
            self.rewards.append(row["reward"])
        self.passed += bool(row["passed"])
        self.sampled_tokens += row.get("n_sampled_tokens") or 0
        self.turns += row["n_turns"]
        self.tool_calls += row["n_tool_calls"]
        self.tool_errors += row["n_tool_errors"]
        self.parse_failures += row["n_parse_failures"]

    def as_dict(self) -> dict[str, Any]:
        """For the run's summary and for printing."""
        return {
            "run_id": self.run_id,
            "planned": self.planned,
            "skipped": self.skipped,
            "collected": self.collected,
            "statuses": dict(self.statuses),
            "errors": dict(self.errors),
            "reward_mean": self.reward_mean,
            "reward_std": pstdev(self.rewards) if self.rewards else None,
            "pass_rate": self.passed / len(self.rewards) if self.rewards else None,
            "turns": self.turns,
            "tool_calls": self.tool_calls,
            "tool_errors": self.tool_errors,
            "parse_failures": self.parse_failures,
            "sampled_tokens": self.sampled_tokens,
            "seconds": round(self.seconds, 3),
        }


def collect(house: House, run: Run, environment: Environment, policy: Policy, tasks: Iterable[Task], **options: Any) -> CollectSummary:  # fmt: skip
    """`collect_async` from code that has no event loop."""
    return asyncio.run(collect_async(house, run, environment, policy, tasks, **options))


async def collect_async(
    house: House,
    run: Run,
    environment: Environment,
    policy: Policy,
    tasks: Iterable[Task],
    *,
    num_repeats: int = 1,
    sampling: Sampling | None = None,
    step: int | None = None,
    max_turns: int = 6,
    concurrency: int = 64,
    time_limit_s: float = 600.0,
    retry: Retry | None = None,
    on_done: Callable[[dict[str, Any], CollectSummary], None] | None = None,
) -> CollectSummary:
    """Collects every rollout of tasks × num_repeats that the house does not have yet.

    The same arguments fill the same slots, so a second call after a crash or Ctrl-C collects exactly what is missing. With
    `sampling.seed` each rollout gets a seed of its own, derived from it, the task, the repeat and the step.

    Args:
        step: Optimizer step the rollouts are for; None outside online training.
        concurrency: Rollouts in flight.
        time_limit_s: Wall clock of one rollout; past it the row's status is `timeout`.
        retry: Slots whose last attempt it is true of (`failed`, `unanswered`) get another one, as a new row; None is no slot.
        on_done: Called with each row, as the writer has taken it, and the summary so far.

    Raises EngineGone when the engine has ended, and what the house raises (a full disk, a run taken over). When it returns, and also when it
    raises, all rollouts that were finished have been written if the house still could.
    """
    sampling = sampling or Sampling()
    slots, summary = plan_slots(house, run, tasks, num_repeats, step, retry)
    start = perf_counter()
    own = run.writer is None
    writer = run.writer if run.writer is not None else RolloutWriter(house, run)
    loop = asyncio.get_running_loop()
    pending = iter(slots)
    referenced: set[str] = set()

    async def work(pool: ThreadPoolExecutor) -> None:
        for slot in pending:  # shared by all workers: each takes the next
            settings = replace(sampling, seed=rollout_seed(sampling.seed, slot))
            episode = await play_episode(environment, policy, slot, settings, max_turns, time_limit_s)
            references = {} if slot.task_id in referenced else reference_rows(episode, slot, policy)
            row = await loop.run_in_executor(pool, add_row, writer, episode.row, references)
            # A rollout that failed early has no prompt tokens to give; a later one of the task does.
            if row["task_id"] is not None and ("prompt_tokens" in references or token_identity(policy) is None):
                referenced.add(slot.task_id)
            summary.add(row)
            if on_done is not None:
                on_done(row, summary)

    # One thread, so that a commit never holds up the rollouts in flight and rows keep their order.
    with ThreadPoolExecutor(1, "rollhouse-writer") as pool:
        try:
            await _all_or_first_error([work(pool) for _ in range(min(concurrency, len(slots)))])
        finally:
            # Also when cancelled: what was collected goes into the house before anything else happens.
            pool.submit(writer.close if own else writer.flush).result()
    summary.seconds = perf_counter() - start
    return summary


def plan_slots(
    house: House, run: Run, tasks: Iterable[Task], num_repeats: int, step: int | None, retry: Retry | None
) -> tuple[list[Slot], CollectSummary]:
    """The slots still to fill, task by task, and a summary that counts those already filled."""
    if num_repeats < 1:
        raise ConfigError(f"num_repeats is {num_repeats}.", "Ask for at least one rollout a task.")
    last = _last_attempts(house, run.run_id, step)
    slots, skipped = [], 0
    for task, task_id, prompt_id in _distinct(tasks):
        for sample in range(num_repeats):
            before = last.get(slot_id(run.run_id, step, task_id, sample))
            if before is not None and not (retry and retry(before)):
                skipped += 1
            else:
                attempt = 0 if before is None else before["attempt"] + 1
                slots.append(Slot(run.run_id, step, task, task_id, prompt_id, sample, attempt))
    return slots, CollectSummary(run.run_id, len(slots) + skipped, skipped)


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


def _last_attempts(house: House, run_id: str, step: int | None) -> dict[str, dict[str, Any]]:
    """slot_id → attempt, status and error_type of the last attempt at it."""
    where = f"run_id = {quote(run_id)} and step " + ("is null" if step is None else f"= {step}")
    rows = house.read("rollouts", columns=["slot_id", "attempt", "status", "error_type"], filter=where).to_pylist()
    return {row["slot_id"]: row for row in sorted(rows, key=lambda row: row["attempt"])}


def rollout_seed(seed: int | None, slot: Slot) -> int | None:
    """The seed of one rollout: 48 bits of a hash, so that engines of any integer width take it. None stays None."""
    if seed is None:
        return None
    return int(hash_id("seed", seed, slot.task_id, slot.sample_index, slot.step, slot.attempt)[:12], 16)


def add_row(writer: RolloutWriter, row: dict[str, Any], references: dict[str, Any]) -> dict[str, Any]:
    """Hands a row and what it refers to to the writer, and returns the row that was written.

    A row no table can hold becomes a row that says so; when its task is at fault, one without task_id and prompt_id.
    """
    try:
        writer.add(row, **references)
        return row
    except _UNSTORABLE as error:
        row = unstorable(row, error)
    try:
        writer.add(row, **references)
    except _UNSTORABLE as error:
        row = {**unstorable(row, error), "task_id": None, "prompt_id": None}
        writer.add(row)
    return row


def unstorable(row: dict[str, Any], error: Exception) -> dict[str, Any]:
    """The row without what was said in it."""
    said = ("messages", "token_ids", "loss_mask", "logprobs", "version_spans", "reward", "reward_components", "passed")
    reason = {"status": "error", "error_type": "store", "error_message": one_line(ascii(str(error)).strip("'\""))}
    return {**row, **dict.fromkeys(said), **reason}


def reference_rows(episode: Episode, slot: Slot, policy: Policy) -> dict[str, Any]:
    """The rows of `prompts`, `tasks` and `prompt_tokens` that a rollout refers to, as RolloutWriter.add takes them."""
    task = slot.task
    prompt, task_row = task_rows(task, slot.task_id, slot.prompt_id)
    references: dict[str, Any] = {"prompt": prompt, "task": task_row}
    identity = token_identity(policy)
    if identity is not None and episode.prompt_ids:
        tokenizer_hash, template_hash = identity
        references["prompt_tokens"] = {
            "prompt_id": slot.prompt_id,
            "tokenizer_hash": tokenizer_hash,
            "template_hash": template_hash,
            "token_ids": episode.prompt_ids,
        }
    return references


async def _all_or_first_error(work: Sequence[Any]) -> None:
    """Runs all; the first error cancels the others and is raised when they have ended."""
    running = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*running)
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def refuse_other_config(house: House, run_id: str, config: dict[str, Any], free: Iterable[str] = ()) -> None:
    """Raises ConfigError naming each difference when the run exists and was started with another configuration.

    `free` are the settings that may differ, as `section.key`; the name of a section frees all that is in it.
    """
    if not house.read("run_events", columns=["sequence"], filter=f"run_id = {quote(run_id)}").num_rows:
        return
    before, now = _flat(get_run(house, run_id)["config"]), _flat(json.loads(json.dumps(config, default=str)))
    allowed = tuple(f"{name}." for name in free)
    differing = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    names = [name for name in differing if not f"{name}.".startswith(allowed)]
    if names:
        changes = "; ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names)
        raise ConfigError(
            f"Run {run_id!r} was started otherwise: {changes}.", "Use the same settings, or give the run another name."
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections of sections as `section.key`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
