"""The sessions of the memory categories, which fill the policy's memory before the questions, scenario by scenario.

A session starts with the memory of the previous one, so the sessions of a scenario are sequential. Each becomes a row of
`evaluations` without a verdict, with the memory after it; a resumed run continues after the last of them.
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
from .categories import MEMORY
from .checker import Checker, Memory
from .playing import BENCHMARK, Answered, Judge, answer_case

SUFFIX = "_prereq"
"""A session's category is that of its questions with this, as in the benchmark's ids."""


@dataclass
class Scenario:
    """The memory of one scenario of a category.

    Attributes:
        left: Ids of the remaining sessions, in order.
        memory: The memory after the last played session.
        over: Set when no session is left, or one got no answer.
        error: Why a session got no answer; its questions then cannot be played.
    """

    category: str
    left: list[str]
    memory: Memory = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    error: EngineError | None = None


def scenarios_of(
    checker: Checker, cases: Iterable[tuple[str, Mapping[str, Any]]], played: Mapping[tuple[str, str], Memory]
) -> dict[tuple[str, str], Scenario]:
    """(category, scenario) → its memory, for the scenarios of these questions; other cases are ignored.

    Args:
        played: As `played_sessions` returns it.
    """
    needed = {(category, case["scenario"]): None for category, case in cases if category in MEMORY}
    sessions = {category: checker.sessions(category) for category in dict.fromkeys(category for category, _ in needed)}
    found = {}
    for category, name in needed:
        found[category, name] = scenario = Scenario(category, [])
        for session in sessions[category][name]:
            # Sessions after one that has no row are played again, with its memory.
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
    """(category, session) → the memory after it, for the sessions that the run has played."""
    rows = session_rows(store, run_id, ["category", "case_id", "output"])
    return {(row["category"].removesuffix(SUFFIX), row["case_id"]): json.loads(row["output"])["memory"] for row in rows}


async def play_sessions(
    policy: Policy,
    scenario: Scenario,
    sampling: Sampling,
    judge: Judge,
    on_played: Callable[[str, Answered], None],
) -> None:
    """Plays the remaining sessions of a scenario; `on_played` gets each session's id and result. Raises EngineGone."""
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
    """A question with the filled memory. Raises EngineError if a session got no answer."""
    await scenario.over.wait()
    if scenario.error is not None:
        raise scenario.error
    return await judge("shown", scenario.category, case["id"], scenario.memory)
