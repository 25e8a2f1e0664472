"""Preference pairs: per task and prompt, an accepted response against one that is worse for a reason worth learning."""

from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import polars as pl

from .options import DpoOptions
from .order import shuffled
from .selection import Selection, is_binary, status_reason, valid_reward

TWO_SIGMA_FROM = 8  # with fewer rollouts the spread says little, and the nearest miss teaches most


@dataclass(frozen=True)
class PairRules:
    """The options with what depends on the data filled in.

    Attributes:
        floor: Least reward of a chosen response.
        gap: Least difference in reward.
        group: The columns whose values a pair shares.
    """

    floor: float
    gap: float
    group: list[str]
    options: DpoOptions


def filter_pairable(selection: Selection, options: DpoOptions) -> PairRules:
    """Leaves the rollouts of groups that hold an accepted and a worse response.

    Infrastructure failures are not worse answers: they fall out before groups are looked at.
    """
    allowed = ["completed", "truncated"] if options.allow_truncated_rejected else ["completed"]
    selection.keep(pl.col("trainable").fill_null(True), "not the agent being trained")
    selection.keep(pl.col("status").is_in(allowed), status_reason())
    selection.keep(valid_reward(), "no reward")
    binary = is_binary(selection.frame["reward"])
    floor = options.min_chosen_reward
    if floor is None:
        floor = 1.0 if binary else 0.5
    group = ["task_id", "prompt_id", *(["policy_id"] if options.same_policy else [])]
    rules = PairRules(floor, 1.0 if binary else options.min_gap, group, options)
    chosen = pl.col("reward").filter(pl.col("status") == "completed").max().over(group)
    selection.keep(chosen >= floor, f"no response of its task reaches {floor:g}")
    selection.keep(pl.col("reward").min().over(group) <= chosen - rules.gap, "no worse response of its task")
    return rules


def choose_pairs(selection: Selection, rules: PairRules) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(chosen, rejected) candidates in training order. The frame has the digests of `with_digests`.

    Raises:
        EmptyDataset: No group makes a pair.
    """
    options = rules.options
    pairs = []
    for _, group in selection.frame.sort("rollout_id").group_by(rules.group, maintain_order=True):
        pairs += pairs_of_group(group.to_dicts(), rules)
    used = {side["rollout_id"] for pair in pairs for side in pair}
    if not used and options.max_length_ratio is not None:
        selection.keep(pl.lit(False), f"no pair within a length ratio of {options.max_length_ratio:g}")
    selection.keep(pl.col("rollout_id").is_in(used), "no pair needed it")
    order = pl.DataFrame(
        [
            {"chosen": chosen["rollout_id"], "rejected": rejected["rollout_id"], "at": at}
            for at, (chosen, rejected) in enumerate(pairs)
        ]
    )
    ordered = [pairs[at] for at in shuffled(order, options.seed, "chosen", "rejected")["at"]]
    kept = ordered[: options.max_pairs]
    if len(kept) < len(ordered):
        used = {side["rollout_id"] for pair in kept for side in pair}
        selection.keep(pl.col("rollout_id").is_in(used), f"over {options.max_pairs} pairs")
    return kept


def pairs_of_group(group: list[dict[str, Any]], rules: PairRules) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """At most `max_pairs_per_group` pairs; no response is used twice on the same side.

    Chosen: best reward, then fewer model calls, then a length near the group's median. Rejected: a reward at least the
    gap lower, nearest to the target; among equals the one with fewer malformed calls and tool errors, then the one
    nearest in length, so that length does not give the answer away.
    """
    median = sorted(row["length"] for row in group)[len(group) // 2]
    acceptable = [row for row in group if row["reward"] >= rules.floor and row["status"] == "completed"]
    acceptable.sort(
        key=lambda row: (-row["reward"], row["n_turns"] or 0, abs(row["length"] - median), row["rollout_id"])
    )
    target = _rejected_target(group, rules.options)
    pairs, used = [], set()
    for chosen in _distinct(acceptable):
        worse = [
            row
            for row in group
            if row["reward"] <= chosen["reward"] - rules.gap
            and row["response"] not in used
            and row["response"] != chosen["response"]
            and _within(chosen["length"], row["length"], rules.options.max_length_ratio)
        ]
        if not worse:
            continue
        rejected = min(worse, key=lambda row: _badness(row, chosen, target))
        used.add(rejected["response"])
        pairs.append((chosen, rejected))
        if len(pairs) == rules.options.max_pairs_per_group:
            break
    return pairs


def pair_references(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[dict]:
    """The references of a version: two entries, chosen and rejected, a row."""
    return [
        {
            "rollout_id": side["rollout_id"],
            "task_id": side["task_id"],
            "branch": side["branch"],
            "weight": 1.0,
            "role": role,
            "row": number,
        }
        for number, pair in enumerate(pairs)
        for role, side in zip(("chosen", "rejected"), pair, strict=True)
    ]


def pair_statistics(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    """Mean gap in reward and in length (chosen minus rejected), and how often the chosen side is the longer one."""
    lengths = [chosen["length"] - rejected["length"] for chosen, rejected in pairs]
    return {
        "mean_gap": fmean(chosen["reward"] - rejected["reward"] for chosen, rejected in pairs),
        "mean_length_delta": fmean(lengths),
        "chosen_longer": fmean(delta > 0 for delta in lengths),
    }


def _rejected_target(group: list[dict[str, Any]], options: DpoOptions) -> float | None:
    """The reward a rejected response should be nearest to; None asks for the best of the worse."""
    rewards = [row["reward"] for row in group]
    two_sigma = options.rejected == "two_sigma" or (options.rejected == "auto" and len(group) >= TWO_SIGMA_FROM)
    return fmean(rewards) - 2 * pstdev(rewards) if two_sigma else None


def _badness(row: dict[str, Any], chosen: dict[str, Any], target: float | None) -> tuple:
    distance = -row["reward"] if target is None else abs(row["reward"] - target)
    faults = (row["n_parse_failures"] or 0) + (row["n_tool_errors"] or 0)
    return (distance, faults, abs(row["length"] - chosen["length"]), row["rollout_id"])


def _distinct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({row["response"]: row for row in reversed(rows)}.values())[::-1]


def _within(one: int, other: int, ratio: float | None) -> bool:
    return ratio is None or max(one, other) <= ratio * max(min(one, other), 1)
