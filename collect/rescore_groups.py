"""Scoring stored rollouts group by group, for a scorer that compares the rollouts of a task with each other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..environments.scorers import Scorer
from ..environments.stored_tasks import StoredTasks, read_prompts
from ..store.appending import insert_if_absent
from ..store.ids import hash_id
from ..store.lance_store import LanceStore, quote
from ..store.task import SCORES, Score
from .rescore_summary import COLUMNS, RescoreSummary

_PLACE = ["rollout_id", "slot_id", "attempt", "episode_id", "branch", "trainable", "group_id", "status"]
_GROUPS_AT_ONCE = 16


def score_groups(
    store: LanceStore,
    scorer: Scorer,
    where: str | None,
    summary: RescoreSummary,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Adds the verdicts of every group with at least two rollouts, and counts them and what is left out in `summary`.

    Of an episode its main row counts, of a slot its last attempt, and rollouts that did not fail. A verdict's settings are the scorer's and the ids of the group's
    rollouts, so that a group that has grown is scored again as a whole. Groups whose verdicts are there are not.
    """
    assert scorer.judge_groups is not None
    rows = store.read("rollouts", _PLACE, where).to_pylist()
    groups = _groups(rows, summary)
    tasks = StoredTasks(store, scorer.environment)
    done, total = len(rows) - sum(map(len, groups)), len(rows)
    for some in _chunks(groups):
        ids = ", ".join(quote(rollout_id) for group in some for rollout_id in group)
        found = {
            row["rollout_id"]: row for row in store.read("rollouts", COLUMNS, f"rollout_id in ({ids})").to_pylist()
        }
        known = _known(store, ids)
        todo: list[tuple[Any, list[dict[str, Any]]]] = []
        for group in some:
            members = [found[rollout_id] for rollout_id in group]
            if not _count_known(scorer, summary, members, known):
                members = with_prompts(store, scorer, members)
                todo.append((tasks.find(members[0]["task_id"], members[0]["prompt_id"]), members))
        new: list[Score] = []
        for (_, members), verdicts in zip(todo, scorer.judge_groups(todo), strict=True):
            config = _config(scorer, members)
            for rollout, verdict in zip(members, verdicts, strict=True):
                if not isinstance(verdict, Score):
                    summary.leave_out(verdict or "no_verdict")
                    continue
                summary.scorer, summary.scorer_version = verdict.scorer, verdict.scorer_version
                summary.count(rollout, verdict.reward, verdict.passed)
                new.append(verdict.about(rollout["rollout_id"], summary.run_id, config))
        if new:
            summary.new += insert_if_absent(store, "scores", SCORES.batch(new))
        done += sum(map(len, some))
        if on_progress:
            on_progress(done, total)


def with_prompts(store: LanceStore, scorer: Scorer, rollouts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rollouts, with the messages of their prompts where the scorer needs them; none where the store does not have the prompt."""
    if not scorer.needs_prompt:
        return rollouts
    prompts = read_prompts(store, sorted({row["prompt_id"] for row in rollouts if row["prompt_id"] is not None}))
    return [
        row | {"prompt_messages": prompts[row["prompt_id"]].messages if row["prompt_id"] in prompts else ()}
        for row in rollouts
    ]


def _groups(rows: Sequence[Mapping[str, Any]], summary: RescoreSummary) -> list[list[str]]:
    """The rollout ids of each group that can be compared, sorted."""
    last: dict[str, int] = {}
    for row in rows:
        slot = row["slot_id"] or row["rollout_id"]
        last[slot] = max(last.get(slot, 0), row["attempt"] or 0)
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["group_id"] is None:
            summary.leave_out("of no group")
        elif (row["attempt"] or 0) < last[row["slot_id"] or row["rollout_id"]]:
            summary.leave_out("a later attempt took its place")
        elif row["trainable"] is False or (row["branch"] or 0) > 0:
            summary.leave_out("another row of its episode")
        elif row["status"] not in ("completed", "truncated"):
            summary.leave_out(row["status"])
        else:
            groups.setdefault(row["group_id"], []).append(row["rollout_id"])
    for group in groups.values():
        if len(group) == 1:
            summary.leave_out("alone in its group")
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def _chunks(groups: Sequence[list[str]]) -> Iterator[Sequence[list[str]]]:
    for start in range(0, len(groups), _GROUPS_AT_ONCE):
        yield groups[start : start + _GROUPS_AT_ONCE]


def group_config(config_hash: str, rollout_ids: Sequence[str]) -> str:
    """The settings of a verdict within a group: the scorer's, and whom the rollout was compared with."""
    return hash_id(config_hash, sorted(rollout_ids))


def _config(scorer: Scorer, members: Sequence[Mapping[str, Any]]) -> str:
    return group_config(scorer.config_hash, [row["rollout_id"] for row in members])


def _known(store: LanceStore, ids: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(rollout, config) → verdict."""
    columns = ["rollout_id", "config_hash", "scorer", "scorer_version", "reward", "passed"]
    rows = store.read("scores", columns, f"rollout_id in ({ids})").to_pylist()
    return {(row["rollout_id"], row["config_hash"]): row for row in rows}


def _count_known(
    scorer: Scorer,
    summary: RescoreSummary,
    members: Sequence[dict[str, Any]],
    known: Mapping[tuple[str, str], Mapping[str, Any]],
) -> bool:
    """Whether every rollout of a group has its verdict, which is then counted."""
    config = _config(scorer, members)
    verdicts = [known.get((row["rollout_id"], config)) for row in members]
    if not all(verdicts):
        return False
    for row, verdict in zip(members, verdicts, strict=True):
        assert verdict is not None
        summary.scorer, summary.scorer_version = verdict["scorer"], verdict["scorer_version"]
        summary.count(row, verdict["reward"], verdict["passed"])
    return True
