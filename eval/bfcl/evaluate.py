"""A policy answers BFCL cases in function-calling mode, the checkers judge, every case becomes a row of `evaluations`."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...collect.chat import TemplateError
from ...collect.engines.base import EngineGone, EngineRefused
from ...collect.types import Conversation, Policy, Sampling, Task
from ...store.errors import EngineError, EvaluationError
from ...store.house import House
from ...store.messages import Message
from ...store.runs import Run
from ..rows import evaluation_id, refuse_mixture, rows_of_run
from ..summary import CategoryScore, by_category
from .categories import SINGLE_TURN, categories_named
from .checker import Checker, Verdict
from .tools import to_tool

BENCHMARK = "bfcl"
MODE = "fc"
ROWS_A_COMMIT = 200


@dataclass(frozen=True)
class BfclSummary:
    """What a run answered rightly. It is a slice of the leaderboard, not its overall score.

    Attributes:
        categories: The categories that were run, with their counts.
        not_run: The single-turn categories that were not.
    """

    categories: dict[str, CategoryScore]
    not_run: tuple[str, ...]

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
    limit: int | None = None,
    sampling: Sampling | None = None,
    concurrency: int = 32,
    on_cases: Callable[[int], None] | None = None,
    on_done: Callable[[], None] | None = None,
) -> BfclSummary:
    """Evaluates a policy on BFCL categories and groups; cases the run has judged already are not asked again.

    Args:
        limit: Cases per category, None for all. The slice is the same every time, and a larger one contains it.
        sampling: Greedy with 256 tokens when None.
        concurrency: Answers generated at once.
        on_cases: Called once with the number of cases still to do.
        on_done: Called after each case.

    Raises ConfigError for an unknown category or a run that evaluated another policy, MissingExtra without bfcl-eval, EvaluationError when checking takes too long or
    the engine left cases without an answer; the others are judged and kept, and the same call goes on with those.
    """
    chosen = categories_named(list(categories))
    sampling = sampling or Sampling(temperature=0.0)
    refuse_mixture(house, run, BENCHMARK, MODE, policy.policy_id)
    judged = {row["row_id"] for row in rows_of_run(house, run.run_id, ["row_id"])}
    with Checker() as checker:
        cases = [(category, case) for category in chosen for case in checker.cases(category, limit)]
        cases = [(category, case) for category, case in cases if _row_id(run, category, case["id"]) not in judged]
        if on_cases:
            on_cases(len(cases))
        asyncio.run(_answer_all(house, run, policy, sampling, checker, cases, concurrency, on_done))
    rows = rows_of_run(house, run.run_id, ["benchmark", "category", "passed", "error_type"])
    scores = by_category(row for row in rows if row["benchmark"] == BENCHMARK)
    return BfclSummary(scores, tuple(name for name in SINGLE_TURN if name not in scores))


async def _answer_all(
    house: House,
    run: Run,
    policy: Policy,
    sampling: Sampling,
    checker: Checker,
    cases: list[tuple[str, dict[str, Any]]],
    concurrency: int,
    on_done: Callable[[], None] | None,
) -> None:
    waiting = iter(cases)
    checking = asyncio.Lock()  # one process judges; generation goes on meanwhile
    rows: list[dict[str, Any]] = []
    unanswered: list[str] = []

    async def answer_next() -> None:
        for category, case in waiting:
            task = as_task(category, case)
            try:
                message, verdict = await _answer(policy, task, sampling)
            except EngineGone:
                raise
            except EngineError as error:
                unanswered.append(error.message)
                continue
            if verdict is None:
                calls = [(call.name, call.arguments) for call in message.tool_calls]
                async with checking:
                    verdict = await asyncio.to_thread(checker.check, category, case["id"], calls)
            rows.append(_row(run, policy, task, case["id"], message, verdict))
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


async def _answer(policy: Policy, task: Task, sampling: Sampling) -> tuple[Message, Verdict | None]:
    """The policy's message, and a verdict at once when it cannot be asked. Raises EngineError when asking again may help."""
    nothing = Message("assistant", None)
    try:
        turn = await policy.respond(Conversation(task), sampling)
    except TemplateError as error:
        return nothing, Verdict(False, "template", error.message)
    except EngineRefused as error:
        return nothing, Verdict(False, error.error_type, error.message)
    if turn.token_ids == [] and turn.stop_reason == "length":
        return nothing, Verdict(False, "prompt_too_long", "the prompt fills the policy's context")
    return turn.message, None


def as_task(category: str, case: dict[str, Any]) -> Task:
    """A case as a task; it has no ground truth, for that never leaves the process that checks."""
    return Task(
        environment=BENCHMARK,
        messages=tuple(Message.from_openai(message) for message in case["question"][0]),
        tools=tuple(to_tool(function) for function in case["function"]),
        split="test",
        category=category,
        source_key=case["id"],
    )


def _row_id(run: Run, category: str, case_id: str) -> str:
    return evaluation_id(run.run_id, BENCHMARK, category, case_id, MODE, 0)


def _row(run: Run, policy: Policy, task: Task, case_id: str, message: Message, verdict: Verdict) -> dict[str, Any]:
    category = task.category or ""
    prompt = {"messages": [m.to_openai() for m in task.messages], "tools": [dict(tool) for tool in task.tools]}
    return {
        "row_id": _row_id(run, category, case_id),
        "run_id": run.run_id,
        "benchmark": BENCHMARK,
        "category": category,
        "case_id": case_id,
        "mode": MODE,
        "sample": 0,
        "policy_id": policy.policy_id,
        "passed": verdict.passed,
        "score": float(verdict.passed),
        "prompt": json.dumps(prompt, ensure_ascii=False),
        "output": json.dumps(message.to_openai(), ensure_ascii=False),
        "error_type": verdict.error_type,
        "created_at": datetime.now(UTC),
    }


def _commit(house: House, rows: list[dict[str, Any]]) -> None:
    house.insert_if_absent("evaluations", rows)
    rows.clear()
