"""Scoring stored rollouts again: what the policy did is replayed in a fresh session, and the verdict becomes a row of `scores`."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..store.house import House, quote
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.runs import start_run
from .stored_tasks import StoredTasks
from .types import Environment, Score, Task, Turn

_COLUMNS = ["rollout_id", "task_id", "prompt_id", "messages", "status", "stop_reason", "reward"]
_ROWS_AT_ONCE = 256


@dataclass
class RescoreSummary:
    """What rescoring did.

    Attributes:
        scored: Rollouts that got a verdict.
        new: Verdicts the house did not have yet.
        passed: Verdicts that count as solved.
        moved: Verdicts that differ from the reward at collection time.
        left_out: Rollouts without a verdict, by reason: no_truth, or the status of one that failed.
    """

    run_id: str
    environment: str
    scored: int = 0
    new: int = 0
    passed: int = 0
    moved: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


def rescore(
    house: House,
    environment: Environment,
    *,
    of_run: str | None = None,
    name: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RescoreSummary:
    """Scores every stored rollout of an environment that ended by itself or at a limit; doing it again adds nothing.

    A verdict is named by rollout, scorer, its version and the environment's state: other tables give verdicts of their own.

    Args:
        of_run: Only the rollouts of this run.
        name: Name of the rescoring run; None makes one.
        on_progress: Gets rollouts done and rollouts in all.
    """
    where = f"environment = {quote(environment.name)}" + (f" and run_id = {quote(of_run)}" if of_run else "")
    rollouts = house.dataset("rollouts")
    total, done = rollouts.count_rows(filter=where), 0
    with start_run(house, "rescore", name, {"environment": environment.name, "of_run": of_run}) as run:
        summary = RescoreSummary(run.run_id, environment.name)
        tasks = StoredTasks(house, environment.name)
        for batch in rollouts.to_batches(columns=_COLUMNS, filter=where, batch_size=_ROWS_AT_ONCE):
            rows = asyncio.run(_score_batch(environment, tasks, batch.to_pylist(), summary))
            summary.new += house.insert_if_absent("scores", rows)
            done += batch.num_rows
            if on_progress:
                on_progress(done, total)
        run.finish(asdict(summary))
    return summary


async def _score_batch(
    environment: Environment, tasks: StoredTasks, rollouts: list[dict[str, Any]], summary: RescoreSummary
) -> list[dict[str, Any]]:
    config = hash_id(environment.name, getattr(environment, "state_hash", None))
    rows = []
    for rollout in rollouts:
        task = tasks.find(rollout["task_id"], rollout["prompt_id"])
        ended = rollout["status"] in ("completed", "truncated")
        if not ended or task is None:
            reason = "no_truth" if ended else rollout["status"]
            summary.left_out[reason] = summary.left_out.get(reason, 0) + 1
            continue
        score = await replay_rollout(environment, task, rollout)
        summary.scored += 1
        summary.passed += score.passed
        summary.moved += rollout["reward"] is not None and rollout["reward"] != score.reward
        rows.append(_row(rollout["rollout_id"], score, config, summary.run_id))
    return rows


async def replay_rollout(environment: Environment, task: Task, rollout: dict[str, Any]) -> Score:
    """The verdict on a stored rollout: its assistant turns, in order, in a fresh session."""
    session = environment.start(task)
    try:
        said = [Message.from_row(row) for row in rollout["messages"] or () if row["role"] == "assistant"]
        for number, message in enumerate(said, start=1):
            cut = number == len(said) and rollout["stop_reason"] == "length"
            await session.step(Turn(message, stop_reason="length" if cut else "stop"))
        return session.verify()
    finally:
        session.close()


def _row(rollout_id: str, score: Score, config: str, run_id: str) -> dict[str, Any]:
    return {
        "row_id": hash_id(rollout_id, score.scorer, score.scorer_version, config),
        "rollout_id": rollout_id,
        "scorer": score.scorer,
        "scorer_version": score.scorer_version,
        "config_hash": config,
        "reward": score.reward,
        "passed": score.passed,
        "components": [{"name": name, "value": value, "weight": weight} for name, value, weight in score.components],
        "run_id": run_id,
        "created_at": datetime.now(UTC),
    }
