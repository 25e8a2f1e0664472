"""What looks wrong in rollouts, found by the named query `suspicious_rollouts`."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import ConfigError
from ..store.lance_store import LanceStore
from .named import run_query

FINDINGS = {
    "no_turns": "the policy wrote nothing",
    "empty_turn": "a turn without text, reasoning and calls",
    "ends_on_failed_call": "the result of the last call is an error",
    "repeated_turn": "a turn equal to the one before",
    "runaway_length": "over ten times the median length of its run, 200 turns or 200,000 characters",
    "unknown_tool": "a call of a tool that the prompt does not have",
    "no_tool_schemas": "calls, and no tool schemas in the prompt",
    "arguments_off_schema": "arguments that do not fit the tool's schema",
    "result_without_call": "a tool message that answers no call",
    "call_without_result": "a call without a tool message, and a later turn",
    "prefix_break": "a prompt that does not begin with all tokens before it",
    "one_reward": "one and the same reward for four or more rollouts of a run and environment, and no other",
    "duplicate_trajectory": "the same messages as another rollout of its run and prompt",
}
"""Name of a finding → what it means."""


@dataclass(frozen=True)
class Suspicion:
    """One finding in one run.

    Attributes:
        finding: A key of FINDINGS.
        rollouts: The number of rollouts with it.
        example: The id of one of them.
        detail: What was found in that one.
    """

    finding: str
    run_id: str
    rollouts: int
    example: str
    detail: str


def suspicious_rollouts(store: LanceStore, run: str | None = None, at: str | None = None) -> list[Suspicion]:
    """What looks wrong in the last attempts of completed and truncated rollouts, most frequent first.

    Args:
        run: Id of a run; None is all.
    """
    return [Suspicion(**row) for row in run_query(store, "suspicious_rollouts", {"run": run}, at).to_pylist()]


def failing(found: Sequence[Suspicion], fail_on: Sequence[str]) -> list[Suspicion]:
    """Those of the named findings; `any` names all. Raises ConfigError for an unknown name."""
    for name in fail_on:
        if name != "any" and name not in FINDINGS:
            raise ConfigError(f"There is no finding {name!r}.", f"Findings are any, {', '.join(FINDINGS)}.")
    return [one for one in found if "any" in fail_on or one.finding in fail_on]
