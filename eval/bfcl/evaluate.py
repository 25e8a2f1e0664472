"""A policy answers BFCL cases, the benchmark's own checkers judge, every case becomes a row of `evaluations`."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...collect.engines.base import EngineGone
from ...collect.types import Policy, Sampling
from ...store.errors import EngineError, EvaluationError
from ...store.house import House
from ...store.runs import Run
from ..rows import evaluation_id, refuse_mixture, rows_of_run
from ..summary import CategoryScore, by_category
from .asking import BENCHMARK, Answered, Judge, answer_case
from .categories import MULTI_TURN, NOT_RUN, SINGLE_TURN, categories_named
from .checker import Checker
from .formulas import LeaderboardScore, leaderboard

ROWS_A_COMMIT = 200


@dataclass(frozen=True)
class BfclSummary:
    """What a run answered rightly.

    Attributes:
        categories: The categories that were run, with their counts.
        not_run: The leaderboard's other categories.
        leaderboard: The published scores; those that lack a category have no value.
    """

    categories: dict[str, CategoryScore]
    not_run: tuple[str, ...]
    leaderboard: tuple[LeaderboardScore, ...] = ()

    @property
    def accuracy(self) -> dict[str, float]:
        """Category → share of its cases that passed."""
        return {name: score.accuracy for name, score in self.categories.items()}

    @property
    def prompt_too_long(self) -> int:
        """Cases counted as failed because the policy's context does not hold the prompt."""
        return sum(score.errors.get("prompt_too_long", 0) for score in self.categories.values())


def evaluate_bfcl(
    house: House,
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
    """Evaluates a policy on BFCL categories and groups; cases the run has judged already are not asked again.

    Args:
        mode: `fc` offers the functions as tools; `prompt` describes them in the benchmark's own system prompt and reads calls from the text.
        limit: Cases per category, None for all. The slice is the same every time, and a larger one contains it.
        sampling: Greedy with 256 tokens when None.
        concurrency: Cases in flight.
        on_cases: Called once with the number of cases still to do.
        on_done: Called after each case.

    Raises ConfigError for an unknown category or mode and a run that evaluated otherwise, MissingExtra without bfcl-eval, EvaluationError when checking takes too long or
    the engine left cases without an answer; the others are judged and kept, and the same call goes on with those.
    """
    chosen = categories_named(list(categories), mode)
    sampling = sampling or Sampling(temperature=0.0)
    refuse_mixture(house, run, BENCHMARK, mode, policy.policy_id)
    judged = {row["row_id"] for row in rows_of_run(house, run.run_id, ["row_id"])}
    with Checker() as checker:
        cases = [(category, case) for category in chosen for case in checker.cases(category, limit, mode)]
        cases = [(category, case) for category, case in cases if _row_id(run, category, case["id"], mode) not in judged]
        if on_cases:
            on_cases(len(cases))
        judge = Judge(checker, mode)
        asyncio.run(_answer_all(house, run, policy, sampling, judge, cases, concurrency, on_done))
    return bfcl_summary(house, run.run_id)


def bfcl_summary(house: House, run_id: str) -> BfclSummary:
    """The summary of what a run has judged so far."""
    rows = rows_of_run(house, run_id, ["benchmark", "category", "passed", "error_type"])
    scores = by_category(row for row in rows if row["benchmark"] == BENCHMARK)
    not_run = tuple(name for name in (*SINGLE_TURN, *MULTI_TURN, *NOT_RUN) if name not in scores)
    return BfclSummary(scores, not_run, tuple(leaderboard(scores)))


async def _answer_all(
    house: House,
    run: Run,
    policy: Policy,
    sampling: Sampling,
    judge: Judge,
    cases: list[tuple[str, dict[str, Any]]],
    concurrency: int,
    on_done: Callable[[], None] | None,
) -> None:
    waiting = iter(cases)
    rows: list[dict[str, Any]] = []
    unanswered: list[str] = []

    async def answer_next() -> None:
        for category, case in waiting:
            try:
                answered = await answer_case(policy, category, case, sampling, judge)
            except EngineGone:
                raise
            except EngineError as error:
                unanswered.append(error.message)
                continue
            rows.append(_row(run, policy, judge.mode, case["id"], answered))
            if len(rows) >= ROWS_A_COMMIT:
                _commit(house, rows)
            if on_done:
                on_done()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(cases))):
                group.create_task(answer_next())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others were cancelled because of it
    finally:
        _commit(house, rows)
    if unanswered:
        raise EvaluationError(
            f"{len(unanswered)} of {len(cases)} BFCL cases got no answer, the first because: {unanswered[0]}",
            "Run the same command again: it asks only for those.",
        )


def _row_id(run: Run, category: str, case_id: str, mode: str) -> str:
    return evaluation_id(run.run_id, BENCHMARK, category, case_id, mode, 0)


def _row(run: Run, policy: Policy, mode: str, case_id: str, answered: Answered) -> dict[str, Any]:
    task, verdict, category = answered.task, answered.verdict, answered.task.category or ""
    prompt = {"messages": [m.to_openai() for m in task.messages], "tools": [dict(tool) for tool in task.tools]}
    said = [message.to_openai() for message in answered.messages]
    return {
        "row_id": _row_id(run, category, case_id, mode),
        "run_id": run.run_id,
        "benchmark": BENCHMARK,
        "category": category,
        "case_id": case_id,
        "mode": mode,
        "sample": 0,
        "policy_id": policy.policy_id,
        "passed": verdict.passed,
        "score": float(verdict.passed),
        "prompt": json.dumps(prompt, ensure_ascii=False),
        "output": json.dumps(said[0] if len(said) == 1 else said, ensure_ascii=False),
        "error_type": verdict.error_type,
        "created_at": datetime.now(UTC),
    }


def _commit(house: House, rows: list[dict[str, Any]]) -> None:
    house.insert_if_absent("evaluations", rows)
    rows.clear()
