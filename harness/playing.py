"""One rollout of a harness: its program plays the task against the gateway, and what it did becomes rows of one episode."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..base.errors import RollhouseError, SchemaMismatch, one_line
from ..collect.episode import Episode, Slot, without_content
from ..environments.harness import HarnessSettings
from ..environments.mixture import parts_of
from ..environments.shaping import check_score
from ..environments.types import Environment
from ..policies.types import Policy, Sampling
from ..serve.errors import ApiError
from ..serve.rows import branch_rollouts, last_call
from ..serve.verdicts import Ending, read_ending
from ..store.ids import group_id, hash_id, slot_id
from ..store.rollout import FAILED, Rollout, verdict_columns
from ..store.task import Score
from .gateway import Gateway
from .live import LiveRollout
from .running import ProgramEnd, Runner

_VERDICT_S = 60.0
"""Seconds that an environment's verdict may take after the program has ended, unless it has a `verify_limit_s` of its own."""


@dataclass(frozen=True)
class HarnessEnding:
    """How a rollout ended: what its rows have in common.

    Attributes:
        error_type: `harness` for a program that failed; None for none.
    """

    status: str = "completed"
    stop_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    score: Score | None = None


@dataclass
class HarnessPlayer:
    """Plays the rollouts of one harness."""

    settings: HarnessSettings
    environment: Environment
    policy: Policy
    gateway: Gateway
    runner: Runner

    async def play(self, slot: Slot, sampling: Sampling, time_limit_s: float, tool_limit_s: float | None = None) -> Episode:  # fmt: skip
        """Plays one rollout. Whatever the program does becomes its rows; when this returns, nothing of the program is left.

        Raises EngineGone, after which no other rollout could succeed, and CancelledError.
        """
        live = LiveRollout(slot, sampling, self.settings, self.environment, tool_limit_s)
        started_at, start = datetime.now(UTC), time.perf_counter()
        access, verifying = await self.gateway.begin(live), start
        try:
            outcome = await self.runner.run(slot.task, access, time_limit_s, sampling.seed)
            await self.gateway.end(live)
            if self.gateway.gone is not None:
                raise self.gateway.gone
            verifying = time.perf_counter()
            verdict = await self._verdict(live, outcome, time_limit_s)
        finally:
            with suppress(Exception):  # a session that cannot be closed leaves the verdict as it is
                await asyncio.shield(self._leave(live))
        ended = time.perf_counter()
        times = {"started_at": started_at, "duration_s": ended - start, "verify_s": ended - verifying}
        return episode_of(live, outcome, verdict, self.policy, times)

    async def _leave(self, live: LiveRollout) -> None:
        await self.gateway.end(live)
        await self.gateway.close(live)

    async def _verdict(self, live: LiveRollout, outcome: ProgramEnd, time_limit_s: float) -> HarnessEnding:
        """Status and verdict: a program that ran out of time or failed has none, unless it failed at a limit of the run."""
        if outcome.timed_out:
            return HarnessEnding("timeout", "timeout", "timeout", f"the rollout took longer than {time_limit_s:g} s")
        if not live.served.calls:
            why = outcome.error or "the harness made no model call"
            return HarnessEnding("error", "error", "engine" if live.failure else "harness", live.failure or why)
        if outcome.error is not None and live.limit is None:
            kind, said = ("engine", live.failure) if live.failure else ("harness", outcome.error)
            return HarnessEnding("error", "error", kind, said)
        last = last_call(live.served.branches())
        stop = live.limit or ("length" if last.stop_reason == "length" else None)
        try:
            given = read_ending(outcome.verdict) if outcome.verdict is not None else live.ending
            score = await self._score(live, given)
        except ApiError as error:
            return HarnessEnding("error", "error", "harness", f"its verdict is not one: {one_line(error.message)}")
        except (Exception, SystemExit) as error:
            said = error.message if isinstance(error, RollhouseError) else f"{type(error).__name__}: {error}"
            return HarnessEnding("error", "error", "verifier", one_line(said))
        if given is not None and given.status is not None:
            kept = None if given.status in FAILED else score
            return HarnessEnding(
                given.status, given.stop_reason or given.status, given.error_type, given.error_message, kept
            )
        failed = {} if outcome.error is None else {"error_type": "harness", "error_message": outcome.error}
        return HarnessEnding("truncated" if stop else "completed", stop or "stop", score=score, **failed)

    async def _score(self, live: LiveRollout, given: Ending | None) -> Score:
        if self.settings.reward != "environment" and given is not None and given.score is not None:
            score = given.score
            named = score.scorer if score.scorer != "agent" else self.settings.label
            return check_score(Score(score.reward, score.passed, named, score.scorer_version, score.components))
        if given is not None and given.status in FAILED:
            return Score(0.0, False, "harness", "1")  # not kept: a rollout that failed has no verdict
        judged = parts_of(self.environment).get(live.slot.task.environment)
        async with asyncio.timeout(max(_VERDICT_S, getattr(judged, "verify_limit_s", 0.0))):
            return check_score(await self.gateway.verdict(live))


def episode_of(
    live: LiveRollout, outcome: ProgramEnd, verdict: HarnessEnding, policy: Policy, times: dict[str, Any]
) -> Episode:  # fmt: skip
    """The rows of a rollout: one for each branch, and one without content where the model was never called."""
    slot, sampling = live.slot, live.sampling
    columns: dict[str, Any] = {
        "slot_id": slot_id(slot.run_id, slot.step, slot.task_id, slot.sample_index),
        "run_id": slot.run_id,
        "step": slot.step,
        "task": slot.task,
        "task_id": slot.task_id,
        "group_id": group_id(slot.run_id, slot.step, slot.task_id),
        "sample_index": slot.sample_index,
        "attempt": slot.attempt,
        "environment": slot.task.environment,
        "status": verdict.status,
        "stop_reason": verdict.stop_reason,
        "error_type": verdict.error_type,
        "error_message": verdict.error_message,
        **verdict_columns(verdict.score),
    }
    if not live.served.calls:
        empty: dict[str, Any] = {"rollout_id": slot.rollout_id, "episode_id": slot.rollout_id, "prompt_id": slot.prompt_id, "policy_id": policy.policy_id, "engine": policy.engine}  # fmt: skip
        rows = [
            Rollout(messages=[], n_turns=0, n_tool_calls=0, n_tool_errors=0, n_parse_failures=0, **columns, **empty)
        ]
    else:
        try:
            rows = branch_rollouts(live.served.branches(), {None: policy}, columns, lambda agent, branch: row_id(slot, agent, branch))  # fmt: skip
        except SchemaMismatch as error:
            bare = Rollout(messages=[], rollout_id=slot.rollout_id, episode_id=slot.rollout_id, **columns)
            rows = [without_content(bare, error)]
    for row in rows:
        row.sampling_seed = sampling.seed
    main = rows[0]
    main.duration_s, main.verify_s, main.started_at = times["duration_s"], times["verify_s"], times["started_at"]
    main.extra = {"harness": ran(live, outcome)}
    for row in rows[1:]:
        row.extra = {"harness": {"name": live.settings.label}}
    return Episode(main, verdict.score, others=tuple(rows[1:]))


def ran(live: LiveRollout, outcome: ProgramEnd) -> dict[str, Any]:
    """What the main row says about its harness, as `extra.harness`: JSON values, those that say nothing left out."""
    found: dict[str, Any] = {
        "name": live.settings.label,
        "runs_in": live.settings.runs_in,
        "asked": live.asked,
        "calls": live.n_calls,
        "tool_calls": live.n_tool_calls or None,
        "exit": outcome.exit,
        "stdout": outcome.stdout,
        "stderr": outcome.stderr,
        "metadata": live.ending.metadata if live.ending is not None else None,
    }
    return {name: value for name, value in found.items() if value not in (None, "", {}, [])}


def row_id(slot: Slot, agent: str, branch: int) -> str:
    """The rollout_id of a row: the slot's for the main one."""
    if (agent, branch) == ("main", 0):
        return slot.rollout_id
    return hash_id("harness rollout", slot.rollout_id, agent, branch)
