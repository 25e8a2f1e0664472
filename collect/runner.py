"""Many rollouts at once into a store: what is missing of a plan is collected, whatever fails is a row, nothing collected is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from ..base.errors import ConfigError
from ..base.event_loop import run_blocking
from ..environments.shaping import RewardShaping
from ..environments.types import Environment
from ..environments.verdicts import ShapingRule, shaped_rollout, shaping_rules
from ..policies.types import Policy, Sampling
from ..store.lance_store import LanceStore
from ..store.rollout import VERDICT, Rollout
from ..store.runs import Run
from ..store.task import Task
from ..store.writer import RolloutWriter
from .episode import Episode, Slot, play_episode
from .feed import Entry, Feed
from .plan import Plan, Retry, failed, make_plan, rollout_seed, unanswered
from .summary import CollectSummary

__all__ = ["CollectSummary", "collect", "collect_async", "collect_slots", "failed", "unanswered"]

OnDone = Callable[[Rollout, CollectSummary], None]
Play = Callable[[Slot, Sampling], Awaitable[Episode]]
"""Plays one rollout, here or elsewhere. Raises EngineGone when no other could succeed."""


def collect(
    store: LanceStore, run: Run, environment: Environment, policy: Policy, tasks: Iterable[Task], **options: Any
) -> CollectSummary:
    """`collect_async` for callers that are not coroutines; safe under a running event loop."""
    return run_blocking(collect_async(store, run, environment, policy, tasks, **options))


async def collect_async(
    store: LanceStore,
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
    tool_limit_s: float | None = None,
    token_budget: int | None = None,
    shaping: Mapping[str, RewardShaping] | None = None,
    retry: Retry | None = None,
    on_plan: Callable[[CollectSummary], None] | None = None,
    on_done: OnDone | None = None,
    play: Play | None = None,
) -> CollectSummary:
    """Collects every rollout of tasks × num_repeats that the store does not have yet.

    The same arguments fill the same slots, so a second call after a crash or Ctrl-C collects exactly what is missing. With
    `sampling.seed` each rollout gets a seed of its own, derived from it, the task, the repeat and the step.

    Args:
        step: Optimizer step the rollouts are for; None outside online training.
        concurrency: Rollouts in flight.
        time_limit_s: Wall clock of one rollout; past it the row's status is `timeout`.
        tool_limit_s: Wall clock of one tool call, for environments that take a limit; None is none.
        token_budget: No rollout starts once the run has sampled N tokens; None is no limit.
        shaping: By name of environment, how rewards are shaped; the raw verdict is kept as a row of `scores`.
        retry: Slots whose last attempt it is true of (`failed`, `unanswered`) get another one, as a new row; None is no slot.
        on_plan: Called once with the summary that will be filled, before the first rollout.
        on_done: Called with the main row of each episode, as the writer has taken it, and the summary so far.
        play: Plays a slot; None is the agent loop over the environment's sessions.

    Raises EngineGone when the engine has ended, ConfigError for a token budget on a policy that shows no tokens, and what the store raises
    (a full disk, a run taken over). When it returns, and also when it raises, all rollouts that were finished have been written if the
    store still could.
    """

    def by_agent_loop(slot: Slot, settings: Sampling) -> Awaitable[Episode]:
        return play_episode(environment, policy, slot, settings, max_turns, time_limit_s, tool_limit_s)

    plan = make_plan(store, run.run_id, tasks, num_repeats, step, retry)
    rules = shaping_rules(environment, shaping)
    return await collect_slots(
        store,
        run,
        plan,
        play or by_agent_loop,
        sampling or Sampling(),
        concurrency,
        token_budget,
        rules,
        on_plan,
        on_done,
    )


async def collect_slots(
    store: LanceStore,
    run: Run,
    plan: Plan,
    play: Play,
    sampling: Sampling,
    concurrency: int,
    token_budget: int | None = None,
    shaping: Mapping[str, ShapingRule] | None = None,
    on_plan: Callable[[CollectSummary], None] | None = None,
    on_done: OnDone | None = None,
    flush: bool = True,
    on_row: Callable[[Rollout], None] | None = None,
) -> CollectSummary:
    """Fills the open slots of a plan, `concurrency` at a time; see `collect_async`.

    Args:
        flush: Whether all is in the store when it returns; else the run's writer has all and may not have committed it. What is raised is raised
            after a flush.
        on_row: Called with every row that is written, those of branches and other agents too.
    """
    summary = CollectSummary(run.run_id, plan.planned, plan.skipped, plan.failed_before)
    if on_plan is not None:
        on_plan(summary)
    start = perf_counter()
    own = run.writer is None
    writer = run.writer if run.writer is not None else RolloutWriter(store, run)

    def on_written(entry: Entry) -> None:
        summary.add(entry.rollout, entry.slot.task.category, entry.others)
        if on_row is not None:
            for row in entry.rows:
                on_row(row)
        if on_done is not None:
            on_done(entry.rollout, summary)

    feed = Feed(writer, on_written)
    budget = _Budget(token_budget, plan.sampled_before)
    slots = budget.slots(plan, summary)

    async def work() -> None:
        for slot in slots:  # shared by all workers: each takes the next
            summary.in_flight += 1
            try:
                episode = await play(slot, replace(sampling, seed=rollout_seed(sampling.seed, slot)))
            finally:
                summary.in_flight -= 1
            summary.saw_tools(episode.tool_seconds)
            rule = (shaping or {}).get(slot.task.environment)
            await feed.put(_entry(slot, episode, rule))
            budget.count(episode)

    async def work_all() -> float:
        await _all_or_first_error([work() for _ in range(min(concurrency, plan.planned - plan.skipped))])
        feed.close()
        return perf_counter()

    commit = writer.close if own else writer.flush
    committed = False
    try:
        played, _ = await _all_or_first_error([work_all(), feed.pump()])
        if flush or own:
            await feed.finish(commit)
        committed, summary.commit_seconds = True, perf_counter() - played
    finally:
        # Also when cancelled: what was collected goes into the store before anything else happens.
        feed.end((lambda: None) if committed else commit)
    summary.seconds, summary.write_seconds = perf_counter() - start, feed.seconds
    return summary


class _Budget:
    """Tokens the run may sample; `spent` counts rollouts as they end, so those in flight go over it."""

    def __init__(self, limit: int | None, spent: int) -> None:
        self.limit = limit
        self.spent = spent

    def slots(self, plan: Plan, summary: CollectSummary) -> Iterator[Slot]:
        """The plan's open slots, until the budget is used up, which the summary names."""
        for slot in plan.slots():
            if self.limit is not None and self.spent >= self.limit:
                summary.stopped = "token_budget"
                return
            yield slot

    def count(self, episode: Episode) -> None:
        """Takes what an episode sampled off. Raises ConfigError when one that got a verdict shows no tokens."""
        rollout = episode.rollout
        tokens = rollout.n_sampled_tokens
        if self.limit is not None and tokens is None and rollout.reward is not None:
            raise no_token_budget()
        self.spent += (tokens or 0) + sum(row.n_sampled_tokens or 0 for row in episode.others)


def no_token_budget() -> ConfigError:
    """What a token budget on a policy that shows no tokens is refused with."""
    return ConfigError(
        "This policy shows no tokens, so a token budget cannot be kept.",
        "Leave --token-budget out and bound the run with --limit and --max-new-tokens.",
    )


def _entry(slot: Slot, episode: Episode, rule: ShapingRule | None) -> Entry:
    if rule is None or episode.score is None:
        return Entry(slot, episode.rollout, episode.others)
    main = shaped_rollout(episode.rollout, episode.score, rule)
    same = {name: getattr(main, name) for name in (*VERDICT, "status", "stop_reason", "error_type", "error_message")}
    return Entry(slot, main, tuple(row.changed(**same) for row in episode.others))


async def _all_or_first_error(work: Sequence[Any]) -> list[Any]:
    """What all return; the first error cancels the others and is raised when they have ended."""
    running = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*running)
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
