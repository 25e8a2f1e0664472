"""The sessions of the memory categories: before its questions are asked, the policy hears what it is to remember, scenario by scenario.

A session begins with the memory that the one before it left, so those of one scenario are played one after the other. Each becomes a row of
`evaluations` without a verdict that holds the memory after it; a run that was cut short goes on after the last of them.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import EngineError
from ...policies.engines.base import EngineGone
from ...policies.types import Policy, Sampling
from ...store.lance_store import LanceStore, quote
from .asking import BENCHMARK, Answered, Judge, answer_case
from .categories import MEMORY
from .checker import Checker, Memory

SUFFIX = "_prereq"
"""A session's category is that of its questions with this, as in the benchmark's ids."""


@dataclass
class Scenario:
    """The memory of one scenario of a category.

    Attributes:
        left: Ids of the sessions still to be played, in order.
        memory: After the last session that was played.
        over: Set once no session is left, or one got no answer.
        error: Why one got no answer; then the questions cannot be asked.
    """

    category: str
    left: list[str]
    memory: Memory = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    error: EngineError | None = None


def scenarios_of(
    checker: Checker, cases: Iterable[tuple[str, Mapping[str, Any]]], played: Mapping[tuple[str, str], Memory]
) -> dict[tuple[str, str], Scenario]:
    """(category, scenario) → its memory, for the scenarios of these questions; other cases are passed over.

    Args:
        played: As `played_sessions` gives it.
    """
    asked = {(category, case["scenario"]): None for category, case in cases if category in MEMORY}
    sessions = {category: checker.sessions(category) for category in dict.fromkeys(category for category, _ in asked)}
    found = {}
    for category, name in asked:
        found[category, name] = scenario = Scenario(category, [])
        for session in sessions[category][name]:
            # What follows a session that is not known has to be played again, with the memory that it leaves.
            if scenario.left or (category, session) not in played:
                scenario.left.append(session)
            else:
                scenario.memory = played[category, session]
    return found


def session_rows(store: LanceStore, run_id: str, columns: list[str]) -> list[dict[str, Any]]:
    """The rows of a run's sessions."""
    which = f"run_id = {quote(run_id)} AND benchmark = {quote(BENCHMARK)} AND passed IS NULL"
    return store.read("evaluations", columns=columns, filter=which).to_pylist()


def played_sessions(store: LanceStore, run_id: str) -> dict[tuple[str, str], Memory]:
    """(category, session) → the memory after it, for those that the run has played."""
    rows = session_rows(store, run_id, ["category", "case_id", "output"])
    return {(row["category"].removesuffix(SUFFIX), row["case_id"]): json.loads(row["output"])["memory"] for row in rows}


async def play_sessions(
    policy: Policy,
    scenario: Scenario,
    sampling: Sampling,
    judge: Judge,
    on_played: Callable[[str, Answered], None],
) -> None:
    """Plays what is left of a scenario; `on_played` gets each session's id and what became of it. Raises EngineGone."""
    try:
        while scenario.left:
            session = scenario.left[0]
            case = await judge("shown", scenario.category, session, scenario.memory)
            answered = await answer_case(policy, scenario.category, case, sampling, judge)
            scenario.memory = answered.memory
            on_played(session, answered)
            scenario.left.pop(0)
    except EngineGone:
        raise
    except EngineError as error:
        scenario.error = error
    scenario.over.set()


async def with_memory(scenario: Scenario, case: Mapping[str, Any], judge: Judge) -> dict[str, Any]:
    """A question as the policy is shown it once its memory is filled. Raises EngineError when a session got no answer."""
    await scenario.over.wait()
    if scenario.error is not None:
        raise scenario.error
    return await judge("shown", scenario.category, case["id"], scenario.memory)
