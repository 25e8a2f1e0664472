"""Rollouts of the next steps, sampled on a thread of their own into the store.

The main thread decides when a step begins (`admitted`) and takes its rollouts when it is the step's turn. Both modes work this way: a
synchronous run begins a step when it takes it, an asynchronous one begins steps as soon as the weights allow.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ...base.errors import EngineError
from ...collect.episode import Episode, Slot
from ...collect.plan import make_plan
from ...collect.runner import collect_slots
from ...environments.mixture import weights_of
from ...environments.verdicts import shaping_rules
from ...policies.types import Sampling
from ...store.task import Task
from .config import GrpoConfig
from .ledger import in_the_store, issued_before, read_rollouts, record_issued
from .mixed_prompts import MixedPrompts
from .plan import groups_with_spread
from .prompts import curriculum_prompts, prompts_of_step, spare_prompts

if TYPE_CHECKING:
    from .parts import Parts

Value = TypeVar("Value")
_VERDICT = (
    "slot_id",
    "attempt",
    "group_id",
    "environment",
    "status",
    "error_type",
    "reward",
    "reward_components",
    "turn_rewards",
    "scorer",
)
_LOOK_S = 0.5
_SLACK_S = 120.0


@dataclass
class Sampled:
    """What was sampled for a step.

    Attributes:
        rounds: The step's prompts by round; those from the second round on replace groups without spread.
        rows: Its rollouts as they are written; None when some were in the store before.
        prompts: prompt_key → tokens, of those rollouts; what the store had before the run is left out.
        n_tokens: Tokens sampled by this process.
        missing_of: Groups without spread that were not replaced, by environment; none without dynamic sampling.
        seconds: From its begin to its end.
        store_s: Of them, spent on the ledger, and after the last rollout had ended.
        write_s: Spent on its rollouts, beside the sampling.
        record: Added to the plan's settings.
        metrics: Of the curriculum.
    """

    step: int
    rounds: list[list[Task]] = field(default_factory=list)
    rows: list[dict[str, Any]] | None = field(default_factory=list)
    prompts: dict[str, list[int]] = field(default_factory=dict)
    n_tokens: int = 0
    missing_of: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    store_s: float = 0.0
    write_s: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Groups without spread that were not replaced."""
        return self.missing_of.total()

    @property
    def tasks(self) -> list[Task]:
        """Of all rounds, in order."""
        return [task for tasks in self.rounds for task in tasks]


class StepSampler:
    """Samples the rollouts of steps on a thread. Leaving the `with` block ends it: finished rollouts are in the store, others are given up."""

    def __init__(self, parts: "Parts", tasks: Sequence[Task]) -> None:
        self.parts = parts
        self._tasks = tasks
        grpo = parts.config.grpo
        weights = weights_of(parts.environment) if parts.config.environment.mixture else None
        self._mixed = None if weights is None else MixedPrompts(tasks, weights, grpo.num_prompts_per_step, grpo.seed)
        self._rules = shaping_rules(parts.environment)
        self._by_id = {task.task_id: task for task in tasks}
        prompts = ((task_id, task.prompt_id) for task_id, task in self._by_id.items())
        self._stored = in_the_store(parts.store, prompts, parts.policy.token_identity)
        parts.writer.tell(self._stored)
        self._options = playing(parts.config)
        self._issued = issued_before(parts.store, parts.run.run_id) if parts.run.incarnation else {}
        self._steps: dict[int, Future[Sampled]] = {}
        warm = parts.config.grpo.warm_start
        # Steps up to this one have their batches stored, or may have them of history.
        self._begun = max(parts.last_planned, warm.num_steps if warm.runs else 0)
        self._failure: BaseException | None = None
        self._noting = threading.Lock()
        self._moved = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="rollhouse-generation", daemon=True)
        self._open, self._idle, self._over, self._in_flight = asyncio.Event(), asyncio.Event(), asyncio.Event(), 0
        self._open.set()
        self._idle.set()
        limit = parts.config.policy.generation.concurrency
        self._places = asyncio.Semaphore(limit) if limit else None

    # Called on the main thread.

    def begin(self, step: int) -> None:
        """Begins a step's rollouts, unless they were begun before."""
        if step not in self._steps:
            self._begun = max(self._begun, step)
            future = asyncio.run_coroutine_threadsafe(self._sample(step), self._loop)
            self._steps[step] = future
            future.add_done_callback(self._ended)

    def admit(self, version: int) -> None:
        """Begins the steps that weights of this version admit, in an asynchronous run; see `admitted`."""
        grpo = self.parts.config.grpo
        if not grpo.async_grpo.enabled:
            return
        for step in admitted(version, grpo.async_grpo.max_trajectory_age_steps, self._begun, grpo.max_num_steps):
            self.begin(step)

    def foresee(self, step: int) -> None:
        """Records the prompts of the next step while the learner is busy; not where a query chooses them later."""
        grpo = self.parts.config.grpo
        if grpo.curriculum.query is None and self._begun < step <= grpo.max_num_steps:
            # It begins with the weights of the step before. An error comes again then.
            noting = asyncio.to_thread(self._prompts, Sampled(step), 0, step - 1)
            asyncio.run_coroutine_threadsafe(noting, self._loop)

    def take(self, step: int) -> Sampled:
        """The step's rollouts, once all have ended and their commit was begun; begins it if it was not. Raises what any step's generation raised."""
        self.begin(step)
        sampled = self._wait(self._steps[step])
        del self._steps[step]
        return sampled

    def check(self) -> None:
        """Raises the error of the thread, and EngineError when it is stuck: no rollout began or ended in the time that two can take."""
        if self._failure is not None:
            raise self._failure
        limit = 2 * self.parts.config.environment.longest_s(self._options["time_limit_s"]) + _SLACK_S
        if not self._thread.is_alive() or (self._busy() and time.monotonic() - self._moved > limit):
            raise _stuck(limit)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No rollout begins inside the block, and none is in flight: it waits for those that are."""
        self._wait(asyncio.run_coroutine_threadsafe(self._drain(), self._loop))
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._open.set)

    def __enter__(self) -> "StepSampler":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(timeout=_SLACK_S)
        if self._thread.is_alive() and error is None:
            raise _stuck(_SLACK_S)

    def _busy(self) -> bool:
        return any(not future.done() for future in self._steps.values())

    def _wait(self, future: "Future[Value]") -> Value:
        while not future.done():
            try:
                return future.result(timeout=_LOOK_S)
            except TimeoutError:
                if not future.done():
                    self.check()
        return future.result()

    # Called on the thread.

    def _work(self) -> None:
        """The thread's work. Its tasks are cancelled and have ended before the loop closes."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._over.wait())

    def _ended(self, future: "Future[Sampled]") -> None:
        if not future.cancelled() and self._failure is None:
            self._failure = future.exception()

    async def _sample(self, step: int) -> Sampled:
        """Rounds of prompts, until the step has its groups: one round, more with dynamic sampling."""
        started, sampled = time.perf_counter(), Sampled(step)
        self._moved = time.monotonic()
        grpo = self.parts.config.grpo
        wanted: Counter[str] = Counter()
        rounds = 0
        while rounds == 0 or (sampled.missing and rounds < grpo.dynamic_sampling_max_gen_batches):
            tasks = await self._timed(sampled, lambda number=rounds: self._prompts(sampled, number))
            if not tasks:
                break
            wanted = wanted or Counter(task.environment for task in tasks)
            sampled.rounds.append(tasks)
            await self._collect(sampled, tasks)
            rounds += 1
            if grpo.use_dynamic_sampling:
                rows = sampled.rows or await self._timed(sampled, lambda: self._read(step))
                found = groups_with_spread(rows, grpo.turn_rewards)
                kept = {row["group_id"]: row["environment"] for row in rows if row["group_id"] in found}
                sampled.missing_of = wanted - Counter(kept.values())
        self.parts.commits.begin(self.parts.writer.flush)
        sampled.seconds = time.perf_counter() - started
        return sampled

    def _read(self, step: int) -> list[dict[str, Any]]:
        self.parts.writer.flush()
        return read_rollouts(self.parts.store, self.parts.run.run_id, step, _VERDICT)

    def _prompts(self, sampled: Sampled, number: int, version: int | None = None) -> list[Task]:
        """The prompts of a round, which are on record before anything is sampled; those on record from before count. `version` None is the engine's."""
        with self._noting:
            return self._prompts_on_record(sampled, number, self.parts.engine.version if version is None else version)

    def _prompts_on_record(self, sampled: Sampled, number: int, version: int) -> list[Task]:
        config, run, step = self.parts.config, self.parts.run, sampled.step
        if config.grpo.curriculum.query is not None:
            self.parts.commits.wait()  # the query is to see all that the weights of now were made of
        chosen = curriculum_prompts(run, config, self._tasks, step, self._own_prompts) if number == 0 else None
        if chosen is not None:
            sampled.record, sampled.metrics = chosen.record, chosen.metrics
        if (step, number) in self._issued:
            return [self._by_id[task_id] for task_id in self._issued[step, number]]
        if chosen is not None:
            tasks = chosen.tasks
        elif number == 0:
            tasks = self._own_prompts(step)
        elif self._mixed is not None:
            tasks = self._mixed.spare(step, sampled.tasks, sampled.missing_of)
        else:
            tasks = spare_prompts(self._tasks, step, sampled.tasks, sampled.missing, config.grpo.seed)
        if tasks:
            ids = [task.task_id for task in tasks]
            record_issued(run, step, number, ids, version)
            self._issued[step, number] = ids
        return tasks

    def _own_prompts(self, step: int) -> list[Task]:
        """The prompts of a step that no query chooses."""
        grpo = self.parts.config.grpo
        if self._mixed is not None:
            return self._mixed.of_step(step)
        return prompts_of_step(self._tasks, step, grpo.num_prompts_per_step, grpo.seed)

    async def _collect(self, sampled: Sampled, tasks: Sequence[Task]) -> None:
        parts, step = self.parts, sampled.step
        repeats = parts.config.grpo.num_generations_per_prompt
        known = (
            parts.store if parts.run.incarnation else None
        )  # in its first incarnation a run has nothing in the store
        plan = await self._timed(sampled, lambda: make_plan(known, parts.run.run_id, tasks, repeats, step))
        settings = sampling(parts.config, step)
        if plan.skipped:
            sampled.rows = None  # some of them are in the store alone
        keep = [] if sampled.rows is None else sampled.rows
        summary = await collect_slots(
            parts.store, parts.run, plan, partial(self._play, sampled), settings, max(1, plan.planned), shaping=self._rules,
            flush=False, on_row=lambda rollout: keep.append(rollout.to_row()),
        )  # fmt: skip
        sampled.n_tokens += summary.sampled_tokens
        sampled.store_s += summary.commit_seconds
        sampled.write_s += summary.write_seconds

    async def _play(self, sampled: Sampled, slot: Slot, settings: Sampling) -> Episode:
        """Plays one rollout when there is a place for it and no weights are being changed under `quiet`."""
        async with self._places or nullcontext():
            episode = await self._play_now(slot, settings)
        for rollout in (episode.rollout, *episode.others):
            prompt = rollout.prompt_tokens()
            if prompt is not None and prompt.row_id not in self._stored:
                sampled.prompts.setdefault(prompt.row_id, prompt.token_ids)
        return episode

    async def _play_now(self, slot: Slot, settings: Sampling) -> Episode:
        while not self._open.is_set():
            await self._open.wait()
        self._in_flight += 1
        self._idle.clear()
        self._moved = time.monotonic()
        try:
            return await self.parts.play(slot, settings)
        finally:
            self._moved = time.monotonic()
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _drain(self) -> None:
        self._open.clear()
        await self._idle.wait()

    async def _timed(self, sampled: Sampled, work: Callable[[], Value]) -> Value:
        """Work on the store, off the event loop."""
        started = time.perf_counter()
        try:
            return await asyncio.to_thread(work)
        finally:
            sampled.store_s += time.perf_counter() - started


def _stuck(seconds: float) -> EngineError:
    return EngineError(
        f"No rollout began or ended for {seconds:.0f} s: an environment or one of its tools may be blocking.",
        "Start the run again to resume it; make tools that wait async.",
    )


# -- rules -------------------------------------------------------------------------------------------------------------------


def admitted(version: int, max_age: int, begun: int, last: int) -> range:
    """The steps to begin now: those after `begun`, the newest begun so far, that weights `version` admit, up to `last`.

    Weights of version v are those after optimizer step v, so step k changes weights of version k - 1, and a rollout sampled by version v is
    k - 1 - v steps old when it is trained on. A rollout begins with weights no older than those it was admitted by.
    """
    return range(begun + 1, min(version + 1 + max_age, last) + 1)


def rollouts_in_flight(config: GrpoConfig) -> int:
    """How many rollouts are sampled at once."""
    grpo = config.grpo
    return config.policy.generation.concurrency or grpo.num_prompts_per_step * grpo.num_generations_per_prompt


def sampling(config: GrpoConfig, step: int) -> Sampling:
    """How the rollouts of a step are sampled."""
    generation = config.policy.generation
    return Sampling(
        generation.temperature, max_tokens=generation.max_new_tokens, seed=config.grpo.seed * 100_003 + step
    )


def playing(config: GrpoConfig) -> dict[str, Any]:
    """Options of `collect` that training and validation share."""
    return {
        "max_turns": config.environment.max_turns,
        "concurrency": rollouts_in_flight(config),
        "time_limit_s": config.policy.generation.time_limit_s,
    }
