"""The rules for preference pairs: for each task and prompt, an accepted response and a worse one.

Pairs are chosen on columns: a round takes the next acceptable response of every group at once and finds its rejected one.
"""

import functools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from .options import DpoOptions
from .order import shuffled
from .selection import Selection, is_binary, keep_verdicts, status_reason

TWO_SIGMA_FROM = 8  # with fewer rollouts the spread is a poor estimate
_MOST_COMBINATIONS = 4_000_000  # pairs in memory at once with pairing=all
_TOLERANCE = 1e-6  # rewards are stored in 32 bits
_CHOSEN_BY = (
    "offset", "rollout_id", "task_id", "prompt_id", "branch", "reward", "status", "n_turns", "n_tool_calls", "n_tool_errors",
    "n_parse_failures", "n_sampled_tokens",
)  # fmt: skip
_SIDE = ["idx", "g", "rollout_id", "task_id", "branch", "reward", "length", "response", "faults"]


@dataclass(frozen=True)
class PairRules:
    """The options, with the values that depend on the data filled in.

    Attributes:
        floor: Least reward of a chosen response.
        gap: Least difference in reward.
        group: The columns in which both sides of a pair have equal values.
    """

    floor: float
    gap: float
    group: list[str]
    options: DpoOptions


def pair_columns(options: DpoOptions) -> set[str]:
    """The columns of candidates that these rules use."""
    return {*_CHOSEN_BY, *_group(options), "trainable"} - {"offset"}


def pair_digests(options: DpoOptions) -> set[str]:
    """The digests that these rules use, see `with_digests`."""
    return {"length", "response"} | ({"states", "turns"} if options.pairing == "step" else set())


def _group(options: DpoOptions) -> list[str]:
    group = ["task_id", "prompt_id"]
    group += ["policy_id"] if options.same_policy or options.same_version else []
    return group + (["policy_version"] if options.same_version else [])


def filter_pairable(selection: Selection, options: DpoOptions) -> PairRules:
    """Keeps the rollouts of groups that hold an accepted and a worse response.

    Infrastructure failures are not worse answers, so they are dropped before groups are compared.
    """
    allowed = ["completed", "truncated"] if options.allow_truncated_rejected else ["completed"]
    selection.keep(pl.col("trainable").fill_null(True), "not the agent being trained")
    selection.keep(pl.col("status").is_in(allowed), status_reason())
    keep_verdicts(selection)
    binary = is_binary(selection.frame["reward"])
    floor = options.min_chosen_reward
    if floor is None:
        floor = 1.0 if binary else 0.5
    gap = 1.0 if binary and options.pairing != "step" else options.min_gap
    rules = PairRules(floor, gap, _group(options), options)
    selection.narrow(*_CHOSEN_BY, *rules.group)
    # Groups are identified by a 64-bit hash, because numbers are compared faster than ids.
    keys = [pl.col(name).hash(seed) for seed, name in enumerate(rules.group)]
    selection.frame = selection.frame.with_columns(g=functools.reduce(operator.xor, keys))
    groups = selection.frame.group_by("g").agg(
        best=pl.col("reward").filter(pl.col("status") == "completed").max(), worst=pl.col("reward").min()
    )
    selection.frame = selection.frame.join(groups, on="g", how="left")
    selection.keep(pl.col("best") >= floor, f"no response of its task reaches {floor:g}")
    selection.keep(pl.col("worst") <= pl.col("best") - rules.gap + _TOLERANCE, "no worse response of its task")
    selection.frame = selection.frame.drop("best", "worst")
    return rules


def choose_pairs(selection: Selection, rules: PairRules) -> pl.DataFrame:
    """The pairs in training order, with the columns of _SIDE for the chosen side and, suffixed `_rejected`, for the other.

    The frame of the selection has the columns of `pair_digests`.

    Raises:
        EmptyDataset: No group makes a pair.
    """
    options = rules.options
    pool = _pool(_numbered(selection), rules)
    makers = {"all": _all_pairs, "ranked": _ranked_pairs, "step": _step_pairs}
    pairs = makers.get(options.pairing, _pairs_in_rounds)(pool, rules)
    if pairs.is_empty() and options.max_length_ratio is not None:
        selection.keep(pl.lit(False), f"no pair within a length ratio of {options.max_length_ratio:g}")
    _keep_used(selection, pairs, "no pair needed it")
    pairs = shuffled(pairs, options.seed, "rollout_id", "rollout_id_rejected")
    if options.max_pairs is not None and pairs.height > options.max_pairs:
        pairs = pairs.head(options.max_pairs)
        _keep_used(selection, pairs, f"over {options.max_pairs} pairs")
    return pairs


def explicit_pairs(selection: Selection, wanted: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The pairs that a recipe names by `chosen_id` and `rejected_id`, in the form of choose_pairs. A pair with a side that is no candidate is left out, and so is a rollout paired with itself."""
    rules = PairRules(0.0, 0.0, ["task_id", "prompt_id"], DpoOptions())
    selection.keep(pl.col("trainable").fill_null(True), "not the agent being trained")
    with_itself = pl.col("chosen_id") == pl.col("rejected_id")
    alone, wanted = wanted.filter(with_itself)["chosen_id"], wanted.filter(~with_itself)
    paired = pl.concat([wanted["chosen_id"], wanted["rejected_id"]])
    alone = alone.filter(~alone.is_in(paired.implode()))
    selection.keep(~pl.col("rollout_id").is_in(alone.implode()), "paired with itself")
    selection.frame = selection.frame.with_columns(g=pl.col("task_id").hash(0) ^ pl.col("prompt_id").hash(1))
    pool = _pool(_numbered(selection), rules)
    sides = wanted.unique().join(pool, left_on="chosen_id", right_on="rollout_id").rename({"chosen_id": "rollout_id"})
    pairs = sides.join(pool, left_on=["rejected_id", "g"], right_on=["rollout_id", "g"], suffix="_rejected")
    pairs = pairs.rename({"rejected_id": "rollout_id_rejected"})
    _keep_used(selection, pairs, "in no pair of the recipe")
    return shuffled(pairs, seed, "rollout_id", "rollout_id_rejected")


def pair_references(pairs: pl.DataFrame) -> pl.DataFrame:
    """The references of a version: two, chosen and rejected, per row."""
    numbered = pairs.with_columns(row=pl.int_range(pl.len()), weight=1.0)
    columns = ["rollout_id", "task_id", "branch", "weight", "role", "row"]
    sides = [
        numbered.select(
            pl.col(f"rollout_id{side}").alias("rollout_id"),
            "task_id",
            pl.col(f"branch{side}").alias("branch"),
            "weight",
            pl.lit(role).alias("role"),
            "row",
        )
        for role, side in (("chosen", ""), ("rejected", "_rejected"))
    ]
    return pl.concat(sides).sort("row", "role").select(columns)


def pair_statistics(pairs: pl.DataFrame) -> dict[str, float | None]:
    """Statistics of the pairs: mean_gap (reward) and mean_length_delta (both chosen minus rejected), chosen_longer (share of pairs), and length_correlation with being chosen (None when it is undefined)."""
    delta = pl.col("length") - pl.col("length_rejected")
    lengths = pl.concat([pairs["length"], pairs["length_rejected"]])
    chosen = pl.concat([pl.repeat(1, pairs.height, eager=True), pl.repeat(0, pairs.height, eager=True)])
    correlation: Any = pl.select(pl.corr(lengths.cast(pl.Float64), chosen.cast(pl.Float64))).item()
    means = pairs.select(
        mean_gap=(pl.col("reward") - pl.col("reward_rejected")).mean(),
        mean_length_delta=delta.mean(),
        chosen_longer=(delta > 0).mean(),
    ).row(0, named=True)
    if correlation is not None:
        correlation = None if math.isnan(correlation) else round(correlation, 6)
    return {**means, "length_correlation": correlation}


def _pool(frame: pl.DataFrame, rules: PairRules) -> pl.DataFrame:
    """The candidates with the columns that pairing needs: `acceptable` (may be chosen), `faults`, `off_median` (length), and `target`, the reward sought for the rejected side."""
    of_group = frame.group_by("g").agg(
        n=pl.len(),
        median=pl.col("length").quantile(0.5, "higher"),
        low=(pl.col("reward").mean() - 2 * pl.col("reward").std(ddof=0)).round(6),
    )
    return frame.join(of_group, on="g", how="left").with_columns(
        target=_target(rules.options),
        acceptable=(pl.col("reward") >= rules.floor - _TOLERANCE) & (pl.col("status") == "completed"),
        faults=pl.col("n_parse_failures").fill_null(0) + pl.col("n_tool_errors").fill_null(0),
        off_median=(pl.col("length") - pl.col("median")).abs(),
    )


def _target(options: DpoOptions) -> pl.Expr:
    """The reward that a rejected response should be nearest to."""
    if options.pairing == "auto":
        return pl.when(pl.col("n") >= TWO_SIGMA_FROM).then("low").otherwise(float("inf"))
    named = {"two_sigma": pl.col("low"), "best_worst": pl.lit(float("-inf"))}
    return named.get(options.pairing, pl.lit(float("inf")))


def _ranked(pool: pl.DataFrame) -> pl.DataFrame:
    """The distinct acceptable responses with their `place` in the group, 0 the best: by reward, then fewer turns, then a length near the median."""
    best = pool.filter("acceptable").sort("g", -pl.col("reward"), pl.col("n_turns").fill_null(0), "off_median", "idx")
    best = best.unique(["g", "response"], keep="first", maintain_order=True)
    return best.with_columns(place=pl.int_range(pl.len()).over("g"))


def _pairs_in_rounds(pool: pl.DataFrame, rules: PairRules) -> pl.DataFrame:
    """Each round pairs the next acceptable response of each group with the unused worse response nearest to the target.

    Ties go to the response with fewer malformed calls and tool errors, then to the one nearest in length, so that length does
    not reveal which side is better.
    """
    most = 1 if rules.options.pairing == "best_worst" else rules.options.max_pairs_per_group
    ranked = _ranked(pool)
    worse = pool.select(*_SIDE)
    found: list[pl.DataFrame] = []
    number, made = 0, pl.DataFrame(schema={"g": pl.UInt64, "made": pl.Int64})
    while True:
        chosen = ranked.filter(pl.col("place") == number).join(
            made.filter(pl.col("made") >= (most or pool.height)), on="g", how="anti"
        )
        if chosen.is_empty():
            break
        joined = _compatible(chosen.select(*_SIDE, "target").join(worse, on="g", suffix="_rejected"), rules)
        picked = _nearest(joined)
        if picked.is_empty() and rules.options.max_length_ratio is None:
            break
        found.append(picked)
        used = picked.select("g", response="response_rejected")
        worse = worse.join(used, on=["g", "response"], how="anti")
        made = pl.concat([made, picked.select("g", made=pl.lit(1, pl.Int64))]).group_by("g").agg(pl.col("made").sum())
        number += 1
    return pl.concat(found) if found else _nearest(_no_pairs(pool))


def _nearest(joined: pl.DataFrame) -> pl.DataFrame:
    """The best of the possible pairs of each group."""
    reward, target = pl.col("reward_rejected"), pl.col("target")
    distance = pl.when(target.is_infinite()).then(-reward * target.sign()).otherwise((reward - target).abs().round(6))
    apart = (pl.col("length") - pl.col("length_rejected")).abs()
    ordered = joined.sort("g", distance, "faults_rejected", apart, "idx_rejected")
    return ordered.unique("g", keep="first", maintain_order=True)


def _compatible(joined: pl.DataFrame, rules: PairRules) -> pl.DataFrame:
    kept = joined.filter(
        (pl.col("reward_rejected") <= pl.col("reward") - rules.gap + _TOLERANCE)
        & (pl.col("response") != pl.col("response_rejected"))
    )
    ratio = rules.options.max_length_ratio
    if ratio is None:
        return kept
    long = pl.max_horizontal("length", "length_rejected")
    return kept.filter(long <= ratio * pl.max_horizontal(pl.min_horizontal("length", "length_rejected"), 1))


def _ranked_pairs(pool: pl.DataFrame, rules: PairRules) -> pl.DataFrame:
    """Pairs the i-th best response with the i-th worst, as long as their rewards differ enough."""
    worst = pool.sort("g", "reward", "faults", "off_median", "idx").unique(
        ["g", "response"], keep="first", maintain_order=True
    )
    worst = worst.with_columns(place=pl.int_range(pl.len()).over("g"))
    best = _ranked(pool)
    most = rules.options.max_pairs_per_group
    if most is not None:
        best = best.filter(pl.col("place") < most)
    joined = best.select(*_SIDE, "place", "target").join(
        worst.select(*_SIDE, "place"), on=["g", "place"], suffix="_rejected"
    )
    return _compatible(joined, rules)


def _all_pairs(pool: pl.DataFrame, rules: PairRules) -> pl.DataFrame:
    """All pairs whose rewards differ enough; of a group with too many, those that differ most."""
    found = [_nearest(_no_pairs(pool))]
    for part in _by_combinations(pool):
        distinct = part.sort("idx").unique(["g", "response"], keep="first", maintain_order=True)
        chosen = _ranked(part).select(*_SIDE, "target")
        joined = _compatible(chosen.join(distinct.select(*_SIDE), on="g", suffix="_rejected"), rules)
        apart = (pl.col("length") - pl.col("length_rejected")).abs()
        gap = (pl.col("reward") - pl.col("reward_rejected")).round(6)
        joined = joined.sort("g", -gap, apart, "idx", "idx_rejected")
        if rules.options.max_pairs_per_group is not None:
            joined = joined.filter(pl.int_range(pl.len()).over("g") < rules.options.max_pairs_per_group)
        found.append(joined)
    return pl.concat(found)


def _by_combinations(pool: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The pool in parts of whole groups, so that the size of a join stays bounded."""
    sizes = pool.group_by("g").len().sort("g")
    parts = sizes.with_columns(part=(pl.col("len").cast(pl.Int64) ** 2).cum_sum() // _MOST_COMBINATIONS)
    parted = pool.join(parts.select("g", "part"), on="g", how="left", maintain_order="left")
    yield from parted.partition_by("part", maintain_order=True, include_key=False)


def _step_pairs(pool: pl.DataFrame, rules: PairRules) -> pl.DataFrame:
    """Pairs of steps: two turns taken after the same messages, compared by the results of all rollouts that took either.

    The value of a step is the mean reward of the group's rollouts that took it after the same messages: the Monte Carlo estimate
    of Math-Shepherd (Wang et al. 2024) and IPR (Xiong et al. 2024), from rollouts that exist already. Each side is represented
    by one rollout that took the step: the chosen step by its best rollout, the rejected one by its worst. `reward` and
    `reward_rejected` are the values of the steps. The pairs with the widest difference come first within each group.
    """
    values = _step_values(pool, rules.options.min_shared_turns)
    chosen = values.filter(pl.col("best").is_not_null()).sort("g", "states", -pl.col("value"), "best")
    chosen = chosen.unique(["g", "states"], keep="first", maintain_order=True)
    rejected = values.sort("g", "states", "value", "worst").unique(["g", "states"], keep="first", maintain_order=True)
    both = chosen.join(rejected, on=["g", "states", "place"], suffix="_rejected")
    wide = pl.col("value") - pl.col("value_rejected")
    both = both.filter((pl.col("turns") != pl.col("turns_rejected")) & (wide >= rules.gap - _TOLERANCE))
    both = both.sort("g", -wide.round(6), "place", "best", "worst_rejected")
    pairs = both.select("g", "best", "worst_rejected", reward="value", reward_rejected="value_rejected")
    side = pool.select(name for name in _SIDE if name not in ("g", "reward"))
    pairs = pairs.join(side, left_on="best", right_on="idx", maintain_order="left")
    pairs = pairs.join(side, left_on="worst_rejected", right_on="idx", suffix="_rejected", maintain_order="left")
    pairs = pairs.rename({"best": "idx", "worst_rejected": "idx_rejected"})
    if rules.options.max_length_ratio:
        pairs = _compatible(pairs.with_columns(target=pl.lit(float("-inf"))), rules)
    most = rules.options.max_pairs_per_group
    return pairs if most is None else pairs.filter(pl.int_range(pl.len()).over("g") < most)


def _step_values(pool: pl.DataFrame, min_shared: int) -> pl.DataFrame:
    """The steps where a group's rollouts part, after `min_shared` assistant turns or more: `value`, and the rollouts `best` and `worst`."""
    steps = (
        pool.select("g", "idx", "reward", "acceptable", "states", "turns")
        .explode("states", "turns", empty_as_null=False)
        .with_columns(place=pl.int_range(pl.len()).over("idx"))
        .filter(pl.col("place") >= min_shared)
    )
    # Where all rollouts take the same turn there is nothing to compare.
    forks = steps.filter(pl.col("turns").n_unique().over("g", "states") > 1)
    return (
        forks.sort("idx")
        .group_by("g", "states", "turns", "place", maintain_order=True)
        .agg(
            value=pl.col("reward").mean().round(6),
            best=pl.col("idx").filter("acceptable").sort_by(pl.col("reward").filter("acceptable"), descending=True, maintain_order=True).first(),
            worst=pl.col("idx").sort_by("reward", maintain_order=True).first(),
        )
    )  # fmt: skip


def _no_pairs(pool: pl.DataFrame) -> pl.DataFrame:
    none = pool.head(0)
    return none.select(*_SIDE, "target").join(none.select(*_SIDE), on="g", suffix="_rejected")


def _keep_used(selection: Selection, pairs: pl.DataFrame, reason: str) -> None:
    used = np.zeros(selection.n_inputs, bool)
    used[pairs["idx"].to_numpy()] = used[pairs["idx_rejected"].to_numpy()] = True
    selection.keep(pl.Series(used[selection.frame["idx"].to_numpy()]), reason)


def _numbered(selection: Selection) -> pl.DataFrame:
    """The frame with `idx`, the rank of each rollout by its id, which breaks ties."""
    selection.frame = selection.frame.with_columns(idx=pl.col("rollout_id").rank("ordinal").cast(pl.UInt32) - 1)
    return selection.frame
