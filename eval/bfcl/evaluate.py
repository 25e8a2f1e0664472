"""Evaluates a policy on BFCL with the benchmark's checkers. Every case becomes a row of `evaluations`."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from ...base.errors import EngineError, EvaluationError
from ...base.event_loop import run_blocking
from ...policies.engines.base import EngineGone
from ...policies.types import Policy, Sampling
from ...store.appending import insert_if_absent
from ...store.lance_store import LanceStore
from ...store.runs import Run
from ..rows import evaluation_id, refuse_mixture, rows_of_run
from ..summary import CategoryScore, by_category
from .categories import GROUPS, MEMORY, NOT_RUN, SINGLE_TURN, categories_named
from .checker import Checker, require_bfcl
from .formulas import LeaderboardScore, leaderboard
from .playing import BENCHMARK, Answered, Judge, answer_case
from .sessions import SUFFIX, Scenario, play_sessions, played_sessions, scenarios_of, session_rows, with_memory

ROWS_A_COMMIT = 200


@dataclass(frozen=True)
class BfclSummary:
    """The results of a run.

    Attributes:
        categories: The categories that were run, with their counts.
        not_run: The leaderboard's other categories.
        leaderboard: The published scores; those that lack a category have no value.
        sessions: How the sessions of the memory categories ended (`completed`, or an error type) → number.
    """

    categories: dict[str, CategoryScore]
    not_run: tuple[str, ...]
    leaderboard: tuple[LeaderboardScore, ...] = ()
    sessions: dict[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> dict[str, float]:
        """Category → share of its cases that passed."""
        return {name: score.accuracy for name, score in self.categories.items()}

    @property
    def prompt_too_long(self) -> int:
        """Cases counted as failed because the policy's context does not hold the prompt."""
        return sum(score.errors.get("prompt_too_long", 0) for score in self.categories.values())


def evaluate_bfcl(
    store: LanceStore,
    run: Run,
    policy: Policy,
    categories: Iterable[str] = SINGLE_TURN,
    *,
    mode: str = "fc",
    limit: int | None = None,
    sampling: Sampling | None = None,
    concurrency: int = 32,
    on_cases: Callable[[int], None] | None = None,
    on_done: Callable[[], None] | None = None,
) -> BfclSummary:
    """Evaluates a policy on BFCL categories and groups; judged cases are skipped.

    Args:
        mode: `fc` offers the functions as tools; `prompt` describes them in the benchmark's own system prompt and reads calls from the text.
        limit: Cases per category, None for all. The slice is deterministic, and a larger one contains it.
        sampling: Greedy with 256 tokens when None.
        concurrency: Cases in flight.
        on_cases: Called once with the number of cases to play, sessions included.
        on_done: Called after each case.

    Raises ConfigError for an unknown category or mode and a run with another configuration, MissingExtra without bfcl-eval, EvaluationError when checking takes too long or
    the engine did not answer some cases; the others are kept, and the same call plays the missing ones.
    """
    chosen = categories_named(list(categories), mode)
    sampling = sampling or Sampling(temperature=0.0)
    refuse_mixture(store, run, BENCHMARK, mode, policy.policy_id)
    require_bfcl(chosen)
    judged = {row["row_id"] for row in rows_of_run(store, run.run_id, ["row_id"])}
    with Checker() as checker:
        cases = [(category, case) for category in chosen for case in checker.cases(category, limit, mode)]
        cases = [(category, case) for category, case in cases if _row_id(run, category, case["id"], mode) not in judged]
        scenarios = scenarios_of(checker, cases, played_sessions(store, run.run_id))
        if on_cases:
            on_cases(len(cases) + sum(len(scenario.left) for scenario in scenarios.values()))
        work = _Work(store, run, policy, sampling, Judge(checker, mode), scenarios, on_done or (lambda: None))
        run_blocking(_answer_all(work, cases, concurrency))
    return bfcl_summary(store, run.run_id)


def bfcl_summary(store: LanceStore, run_id: str) -> BfclSummary:
    """The summary of the cases judged so far."""
    rows = rows_of_run(store, run_id, ["benchmark", "category", "passed", "error_type"])
    scores = by_category(row for row in rows if row["benchmark"] == BENCHMARK)
    not_run = tuple(name for name in (*GROUPS["all"], *NOT_RUN) if name not in scores)
    ends = Counter(row["error_type"] or "completed" for row in session_rows(store, run_id, ["error_type"]))
    return BfclSummary(scores, not_run, tuple(leaderboard(scores)), dict(ends.most_common()))


@dataclass
class _Work:
    """The state that workers share; `unanswered` has an error message for each case without an answer."""

    store: LanceStore
    run: Run
    policy: Policy
    sampling: Sampling
    judge: Judge
    scenarios: dict[tuple[str, str], Scenario]
    on_done: Callable[[], None]
    rows: list[dict[str, Any]] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    def keep(self, category: str, case_id: str, answered: Answered, commit_at: int = ROWS_A_COMMIT) -> None:
        self.rows.append(_row(self.run, self.policy, self.judge.mode, category, case_id, answered))
        if len(self.rows) >= commit_at:
            self.commit()
        self.on_done()

    def commit(self) -> None:
        insert_if_absent(self.store, "evaluations", self.rows)
        self.rows.clear()


async def _answer_all(work: _Work, cases: list[tuple[str, dict[str, Any]]], concurrency: int) -> None:
    # Sessions come first and questions about them last, so that workers wait little for sessions.
    ordered = sorted(cases, key=lambda case: case[0] in MEMORY)
    fill = (_fill(work, scenario) for scenario in work.scenarios.values())
    waiting = chain(fill, (_answer(work, category, case) for category, case in ordered))

    async def next_job() -> None:
        for job in waiting:
            await job

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(cases))):
                group.create_task(next_job())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others were cancelled because of it
    finally:
        work.commit()
    if work.unanswered:
        raise EvaluationError(
            f"{len(work.unanswered)} of {len(cases)} BFCL cases got no answer, the first because: {work.unanswered[0]}",
            "Run the same command again. It requests only those.",
        )


async def _fill(work: _Work, scenario: Scenario) -> None:
    def on_played(session: str, answered: Answered) -> None:
        work.keep(scenario.category + SUFFIX, session, answered, commit_at=1)  # a session costs many model calls

    await play_sessions(work.policy, scenario, work.sampling, work.judge, on_played)


async def _answer(work: _Work, category: str, case: dict[str, Any]) -> None:
    scenario = work.scenarios.get((category, case["scenario"]))
    try:
        if scenario is not None:
            case = await with_memory(scenario, case, work.judge)
        answered = await answer_case(work.policy, category, case, work.sampling, work.judge)
    except EngineGone:
        raise
    except EngineError as error:
        work.unanswered.append(error.message)
        return
    work.keep(category, case["id"], answered)


def _row_id(run: Run, category: str, case_id: str, mode: str) -> str:
    return evaluation_id(run.run_id, BENCHMARK, category, case_id, mode, 0)


def _row(run: Run, policy: Policy, mode: str, category: str, case_id: str, answered: Answered) -> dict[str, Any]:
    """A session has no verdict; its output is the memory and the messages."""
    task, verdict, session = answered.task, answered.verdict, category.endswith(SUFFIX)
    prompt = {"messages": [m.to_openai() for m in task.messages], "tools": [dict(tool) for tool in task.tools]}
    messages = [message.to_openai() for message in answered.messages]
    output = (
        {"messages": messages, "memory": answered.memory}
        if session
        else messages[0]
        if len(messages) == 1
        else messages
    )
    return {
        "row_id": _row_id(run, category, case_id, mode),
        "run_id": run.run_id,
        "benchmark": BENCHMARK,
        "category": category,
        "case_id": case_id,
        "mode": mode,
        "sample": 0,
        "policy_id": policy.policy_id,
        "passed": None if session else verdict.passed,
        "score": None if session else float(verdict.passed),
        "prompt": json.dumps(prompt, ensure_ascii=False),
        "output": json.dumps(output, ensure_ascii=False),
        "error_type": verdict.error_type,
        "created_at": datetime.now(UTC),
    }
