"""The numbers of one step: of its rollouts, of its plan, of the age of the weights that sampled it and of its phases; and the interface of a viewer."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Protocol

from ...store.lance_store import quote
from .plan import BatchPlan, PlanEntry

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore

JUDGED = ("completed", "truncated")
"""Statuses of rollouts that did not fail: pass rates in training and validation are over these."""


def rollout_metrics(rollouts: Sequence[Mapping[str, Any]], by_environment: bool = False) -> dict[str, float]:
    """Over rollout rows (columns PLANNED_COLUMNS): rewards over those with a verdict, the rest over those not failed.

    Args:
        by_environment: Whether counts, rewards and pass rates are also given for each environment (`train/reward/NAME`).
    """
    numbers = _reward_metrics(rollouts)
    if by_environment:
        numbers |= each_environment(rollouts, _reward_metrics)
    done = [row for row in rollouts if row["status"] in JUDGED]
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


def _reward_metrics(rollouts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Counts, rewards and pass rate."""
    done = [row for row in rollouts if row["status"] in JUDGED]
    rewards = [row["reward"] for row in done if row["reward"] is not None]
    numbers = {
        "rollouts/total": float(len(rollouts)),
        "rollouts/failed": float(len(rollouts) - len(done)),
        "rollouts/scored": float(len(rewards)),
    }
    if rewards:
        numbers["train/reward"], numbers["train/reward_std"] = fmean(rewards), pstdev(rewards)
        numbers["train/pass_rate"] = fmean(bool(row["passed"]) for row in done)
    return numbers


def each_environment(
    rows: Sequence[Mapping[str, Any]], measure: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]]
) -> dict[str, float]:
    """What `measure` gives for the rows of each environment, as `NAME/ENVIRONMENT`."""
    names = sorted({row["environment"] for row in rows})
    return {
        f"{name}/{environment}": value
        for environment in names
        for name, value in measure([row for row in rows if row["environment"] == environment]).items()
    }


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
    groups: dict[str, list[PlanEntry]] = {}
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


def _flat(group: Sequence[PlanEntry]) -> bool:
    """Whether a group has no spread; where KL or entropy are in the loss it is trained on all the same."""
    return any(entry.reason == "zero_std" for entry in group) or not any(entry.advantage for entry in group)


def one_line(numbers: dict[str, float]) -> str:
    """A step for the terminal."""
    shown = {"reward": "train/reward", "loss": "train/loss", "grad": "train/grad_norm", "val": "val/accuracy"}
    parts = [f"{label} {numbers[name]:.3f}" for label, name in shown.items() if name in numbers]
    dead = [f"{who} restarted {n:.0f}×" for who in ("engine", "learner") if (n := numbers.get(f"{who}/restarts"))]
    return "  ".join([*parts, f"{numbers['time/step']:.1f} s", *dead])


def staleness_metrics(store: "LanceStore", step: int, rollouts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`staleness/{mean,max}` at each rollout's first token, `staleness/{token_mean,token_max}` over sampled tokens, in optimizer steps.

    Args:
        rollouts: Rows with rollout_id, n_sampled_tokens, policy_version and policy_version_last; those without tokens are not counted.
    """
    sampled = [row for row in rollouts if row["n_sampled_tokens"] and row["policy_version"] is not None]
    if not sampled:
        return {}
    first = [age(step, row["policy_version"]) for row in sampled]
    mixed = _spans(store, [row for row in sampled if row["policy_version_last"] != row["policy_version"]])
    tokens = oldest = 0
    total = 0.0
    for row in sampled:
        parts = mixed.get(row["rollout_id"]) or {row["policy_version"]: row["n_sampled_tokens"]}
        total += sum(age(step, version) * n for version, n in parts.items())
        tokens += sum(parts.values())
        oldest = max(oldest, max(age(step, version) for version in parts))
    return {
        "staleness/mean": fmean(first),
        "staleness/max": float(max(first)),
        "staleness/token_mean": total / tokens,
        "staleness/token_max": float(oldest),
    }


def _spans(store: "LanceStore", rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, int]]:
    """rollout_id → weights version → sampled tokens, of rollouts that several versions sampled."""
    if not rows:
        return {}
    if "version_spans" in rows[0] and "loss_mask" in rows[0]:
        return {row["rollout_id"]: tokens_by_version(row["version_spans"], row["loss_mask"]) for row in rows}
    names = ", ".join(quote(row["rollout_id"]) for row in rows)
    found = store.read("rollouts", ["rollout_id", "version_spans", "loss_mask"], f"rollout_id in ({names})").to_pylist()
    return {row["rollout_id"]: tokens_by_version(row["version_spans"], row["loss_mask"]) for row in found}


def tokens_by_version(spans: Sequence[Mapping[str, int]], loss_mask: Sequence[int]) -> dict[int, int]:
    """Sampled tokens of a rollout by the version of the weights that sampled them; `spans` as in rollouts.version_spans."""
    ends = [span["start"] for span in spans[1:]] + [len(loss_mask)]
    counts: dict[int, int] = {}
    for span, end in zip(spans, ends, strict=True):
        n = sum(loss_mask[span["start"] : end])
        if n:
            counts[span["version"]] = counts.get(span["version"], 0) + n
    return counts


def age(step: int, version: int) -> int:
    """Optimizer steps between the weights that sampled a token and those that step `step` changes."""
    return step - 1 - version


class Stopwatch:
    """`with watch("generate"): …` adds to `seconds["generate"]`; phases may come several times, and a phase inside another is taken off it."""

    def __init__(self, begins: Callable[[str], None] | None = None) -> None:
        """`begins` is called with the name of each phase that begins, or continues after one inside it."""
        self.seconds: dict[str, float] = {}
        self._begins = begins
        self._started = time.perf_counter()
        self._inner_s = 0.0  # of phases that ended inside the current one
        self._current: str | None = None

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Times one phase."""
        if self._begins is not None:
            self._begins(phase)
        before, self._inner_s = self._inner_s, 0.0
        outer, self._current = self._current, phase
        started = time.perf_counter()
        try:
            yield
        finally:
            lasted = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + lasted - self._inner_s
            self._inner_s = before + lasted
            self._current = outer
            if outer is not None and self._begins is not None:
                self._begins(outer)

    def total(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._started


class Viewer(Protocol):
    """Notified of phases and numbers as they happen, on the main thread; must return at once."""

    def phase(self, step: int, what: str) -> None:
        """A phase of a step begins: `wait`, `store`, `train`, …, the names of `time/…`."""
        ...

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """A step has ended. The numbers are those that are logged, and `checkpoint/step`, the last step that a checkpoint was taken after."""
        ...
