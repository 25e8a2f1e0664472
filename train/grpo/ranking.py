"""Rewards from a rubric that compares the rollouts of a group (`rubric.compare: group`), taken when a step's rollouts are all there.

The verdicts are rows of `scores`, written before the plan. The plan keeps the rewards that were compared, so that a stored plan needs no judge; a plan that is made again
takes them from the store.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...collect.rescore_groups import group_config, with_prompts
from ...collect.rescore_summary import COLUMNS
from ...environments.mixture import group_rubrics
from ...environments.rubric import GROUP_SCORER
from ...environments.scorers import rubric_scorer
from ...store.appending import insert_if_absent
from ...store.lance_store import quote
from ...store.task import SCORES, Score
from .plan import episodes_of, has_verdict

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from .parts import Parts

Row = Mapping[str, Any]
Ranked = Mapping[str, Mapping[str, Any]]
"""Environment → `weight`, the factor of the verifier's reward, and `config`, the hash of rubric and judge. A part of the plan's settings, `ranked`."""


def ranked_by(parts: "Parts") -> dict[str, dict[str, Any]]:
    """How the run's environments are ranked; empty where none is."""
    return {
        name: {"weight": rubric.verifier_weight, "config": rubric_scorer(GROUP_SCORER, rubric).config_hash}
        for name, rubric in group_rubrics(parts.environment).items()
    }


def rank_groups(parts: "Parts", rollouts: Sequence[Row]) -> None:
    """Has a judge compare every group that has no verdicts in the store yet, and stores them. A group that the judge fails on is left without."""
    for environment, rubric in group_rubrics(parts.environment).items():
        scorer = rubric_scorer(GROUP_SCORER, rubric)
        groups = _groups(rollouts, environment)
        known = _verdicts(parts.store, groups, scorer.config_hash)
        todo = [group for group in groups if any(rollout_id not in known for rollout_id in group)]
        if not todo:
            continue
        parts.commits.wait()
        ids = ", ".join(quote(rollout_id) for group in todo for rollout_id in group)
        rows = with_prompts(parts.store, scorer, parts.store.read("rollouts", COLUMNS, f"rollout_id in ({ids})").to_pylist())  # fmt: skip
        found = {row["rollout_id"]: row for row in rows}
        assert scorer.judge_groups is not None
        judged = scorer.judge_groups([(None, [found[rollout_id] for rollout_id in group]) for group in todo])
        new = [
            verdict.about(rollout_id, parts.run.run_id, group_config(scorer.config_hash, group))
            for group, verdicts in zip(todo, judged, strict=True)
            for rollout_id, verdict in zip(group, verdicts, strict=True)
            if isinstance(verdict, Score)
        ]
        if new:
            insert_if_absent(parts.store, "scores", SCORES.batch(new))


def with_ranks(store: "LanceStore", rollouts: Sequence[dict[str, Any]], ranked: Ranked) -> list[dict[str, Any]]:
    """The rollouts with the rewards that are compared: `weight` · verifier + score; none for a rollout of a group without verdicts."""
    for environment, how in ranked.items():
        found = _verdicts(store, _groups(rollouts, environment), how["config"])
        rollouts = [
            row if row["environment"] != environment else _ranked(row, found.get(row["rollout_id"]), how["weight"])
            for row in rollouts
        ]
    return list(rollouts)


def rank_metrics(rollouts: Sequence[Row], ranked: Ranked) -> dict[str, float]:
    """`rubric/{score,ranked,failed}`: the mean score, and how many rollouts of ranked environments have one, and have none though they have a verdict."""
    mine = [main for main, *_ in episodes_of(rollouts) if main["environment"] in ranked]
    scores = [part["value"] for main in mine for part in main["reward_components"] or () if part["name"] == GROUP_SCORER]  # fmt: skip
    failed = sum(main["status"] in ("completed", "truncated") for main in mine) - len(scores)
    return {"rubric/ranked": float(len(scores)), "rubric/failed": float(failed), **({"rubric/score": fmean(scores)} if scores else {})}  # fmt: skip


def _ranked(row: dict[str, Any], score: float | None, weight: float) -> dict[str, Any]:
    if score is None or row["reward"] is None:
        return row | {"reward": None}
    parts = [dict(part) | {"weight": (part["weight"] or 0.0) * weight} for part in row["reward_components"] or ()]
    if not any(part["weight"] for part in parts):
        parts.append({"name": "verifier", "value": row["reward"], "weight": weight})
    parts.append({"name": GROUP_SCORER, "value": score, "weight": 1.0})
    return row | {"reward": weight * row["reward"] + score, "reward_components": parts}


def _groups(rollouts: Sequence[Row], environment: str) -> list[list[str]]:
    """The main rows with a verdict of each group of an environment that has at least two, as sorted rollout ids."""
    groups: dict[str, list[str]] = {}
    for main, *_ in episodes_of(rollouts):
        if main["environment"] == environment and has_verdict(main):
            groups.setdefault(main["group_id"], []).append(main["rollout_id"])
    return [sorted(group) for _, group in sorted(groups.items()) if len(group) > 1]


def _verdicts(store: "LanceStore", groups: Sequence[Sequence[str]], config: str) -> dict[str, float]:
    """rollout_id → score, of groups all of whose rollouts have one."""
    if not groups:
        return {}
    ids = ", ".join(quote(rollout_id) for group in groups for rollout_id in group)
    where = f"scorer = {quote(GROUP_SCORER)} and rollout_id in ({ids})"
    rows = store.read("scores", ["rollout_id", "config_hash", "reward"], where).to_pylist()
    scores = {(row["rollout_id"], row["config_hash"]): row["reward"] for row in rows}
    found: dict[str, float] = {}
    for group in groups:
        own = [(rollout_id, scores.get((rollout_id, group_config(config, group)))) for rollout_id in group]
        if all(score is not None for _, score in own):
            found |= {rollout_id: score for rollout_id, score in own if score is not None}
    return found
