"""The numbers of one step that come from its rollouts and its plan."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from .plan import BatchPlan, Entry


def rollout_metrics(rollouts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Over rollout rows (columns PLANNED_COLUMNS): rewards over those with a verdict, the rest over those not failed."""
    done = [row for row in rollouts if row["status"] in ("completed", "truncated")]
    rewards = [row["reward"] for row in done if row["reward"] is not None]
    numbers = {
        "rollouts/total": float(len(rollouts)),
        "rollouts/failed": float(len(rollouts) - len(done)),
        "rollouts/scored": float(len(rewards)),
    }
    if rewards:
        numbers["train/reward"], numbers["train/reward_std"] = fmean(rewards), pstdev(rewards)
        numbers["train/pass_rate"] = fmean(bool(row["passed"]) for row in done)
    numbers |= _component_metrics(done)
    lengths = sorted(row["n_sampled_tokens"] or 0 for row in done)
    if lengths:
        ended = [row["n_sampled_tokens"] or 0 for row in done if row["status"] == "completed"]
        calls = sum(row["n_tool_calls"] or 0 for row in done)
        numbers |= {
            "len/mean": fmean(lengths),
            "len/max": float(lengths[-1]),
            "len/p95": float(lengths[math.ceil(0.95 * len(lengths)) - 1]),
            "truncation_rate": 1 - len(ended) / len(done),
            "turns/mean": fmean(row["n_turns"] or 0 for row in done),
            "tools/calls": float(calls),
            "tools/calls_per_rollout": calls / len(done),
            "tools/error_rate": sum(row["n_tool_errors"] or 0 for row in done) / max(calls, 1),
            "tools/invalid_rate": fmean(bool(row["n_parse_failures"]) for row in done),
        }
        if ended:
            numbers["len/terminated_mean"] = fmean(ended)
    return numbers


def _component_metrics(rollouts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean and deviation of each named part of the reward, over the rollouts that have it."""
    parts: dict[str, list[float]] = {}
    for row in rollouts:
        for part in row["reward_components"] or []:
            if part["value"] is not None:
                parts.setdefault(part["name"], []).append(part["value"])
    means = {f"rewards/{name}/mean": fmean(values) for name, values in parts.items()}
    return means | {f"rewards/{name}/std": pstdev(values) for name, values in parts.items()}


def plan_metrics(plan: BatchPlan) -> dict[str, float]:
    """Over the plan: groups without spread, groups that are trained on, rollouts left out, compared rewards, advantages."""
    groups: dict[str, list[Entry]] = {}
    for entry in plan.entries:
        if entry.advantage is not None:
            groups.setdefault(entry.group_id, []).append(entry)
    compared = [entry.reward for group in groups.values() for entry in group if entry.reward is not None]
    kept = {entry.group_id for entry in plan.entries if entry.kept}
    advantages = [entry.advantage for entry in plan.entries if entry.kept and entry.advantage is not None]
    numbers = {
        "groups/total": float(len(groups)),
        "groups/kept": float(len(kept)),
        "groups/dropped": float(len(groups.keys() - kept)),
        "groups/alone": float(sum(len(group) == 1 for group in groups.values())),
        "rollouts/left_out": float(sum(not entry.kept for entry in plan.entries)),
    }
    if groups:
        numbers["train/frac_zero_std"] = fmean(map(_flat, groups.values()))
        numbers["train/reward_compared"] = fmean(compared)
    if advantages:
        numbers |= {"adv/mean": fmean(advantages), "adv/min": min(advantages), "adv/max": max(advantages)}
    return numbers


def _flat(group: Sequence[Entry]) -> bool:
    """Whether a group has no spread; where KL or entropy are in the loss it is trained on all the same."""
    return any(entry.reason == "zero_std" for entry in group) or not any(entry.advantage for entry in group)


def one_line(numbers: dict[str, float]) -> str:
    """A step for the terminal."""
    shown = {"reward": "train/reward", "loss": "train/loss", "grad": "train/grad_norm", "val": "val/accuracy"}
    parts = [f"{label} {numbers[name]:.3f}" for label, name in shown.items() if name in numbers]
    dead = [f"{who} restarted {n:.0f}×" for who in ("engine", "learner") if (n := numbers.get(f"{who}/restarts"))]
    return "  ".join([*parts, f"{numbers['time/step']:.1f} s", *dead])
